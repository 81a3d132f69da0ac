"""checksum.crc32 agrees with zlib.crc32."""
import subprocess
import unittest
import zlib

LUA = "minibuild-out/bin/interpreter/lua"


class ChecksumTest(unittest.TestCase):
    def test_agrees_with_zlib(self):
        for text in ["", "a", "123456789", "minibuild " * 100]:
            code = 'print(require("checksum").crc32(arg[1]))'
            out = subprocess.run([LUA, "-e", code, "-", text], check=True, capture_output=True, text=True, input="")
            self.assertEqual(int(out.stdout), zlib.crc32(text.encode()), text)


if __name__ == "__main__":
    unittest.main()
