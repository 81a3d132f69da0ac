"""What the parser takes, and what it says about the rest."""
import unittest

from generator import parser


class ParserTest(unittest.TestCase):
    def test_structs(self):
        structs = parser.parse("# a\nstruct a: int x, double y\n\nstruct b: a first, c other\n", "f", {"c": "c"})
        self.assertEqual([struct.name for struct in structs], ["a", "b"])
        self.assertEqual(structs[1].fields, (("a", "first"), ("c", "other")))

    def test_errors_name_the_line(self):
        for text, message in [
            ("struct", "f:1: expected `struct"),
            ("struct a: int x\nstruct b: int", "f:2: expected `TYPE FIELD`, not `int`"),
            ("struct a: b x", "f:1: unknown type `b`"),
        ]:
            with self.assertRaises(ValueError) as caught:
                parser.parse(text, "f", {})
            self.assertIn(message, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
