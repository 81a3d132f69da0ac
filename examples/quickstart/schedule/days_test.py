"""Every day of the list has a source file of its own, and nothing else is in the tree."""
import pathlib
import unittest

# Files lie at their workspace paths, here and remotely; the working directory of a test is the workspace root.
DAYS = pathlib.Path("schedule/days.txt")
TREE = pathlib.Path("minibuild-out/bin/schedule/days")


class DaysTest(unittest.TestCase):
    def setUp(self):
        self.days = [line.split()[0] for line in DAYS.read_text().splitlines()]

    def test_one_file_a_day(self):
        expected = sorted([day + ".c" for day in self.days] + ["all.c"])
        self.assertEqual(sorted(path.name for path in TREE.iterdir()), expected)

    def test_the_table_names_each_day_once(self):
        table = (TREE / "all.c").read_text()
        for day in self.days:
            self.assertEqual(table.count(f'"{day}"'), 1, day)


if __name__ == "__main__":
    unittest.main()
