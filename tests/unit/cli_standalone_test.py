"""The release binary needs only the C library of the machine: no libLLVM, no libstdc++."""
import os
import re
import subprocess
import unittest

ALLOWED = {"linux-vdso.so.1", "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"}


class Standalone(unittest.TestCase):
    def test_needs_only_the_c_library(self):
        output = subprocess.run(["ldd", os.environ["ATTUNE_BINARY"]], check=True, capture_output=True, text=True).stdout
        names = {line.split()[0] for line in output.splitlines() if line.strip()}
        names = {name for name in names if not re.search(r"/ld-linux[^/]*$", name)}
        self.assertIn("libc.so.6", names)
        self.assertEqual(names - ALLOWED, set())


if __name__ == "__main__":
    unittest.main()
