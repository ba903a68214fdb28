"""libattune.so shows the functions of attune_c.h and nothing else. ATTUNE_LIBRARY is its path, ATTUNE_HEADER the header's."""
import os
import re
import subprocess

header = open(os.environ["ATTUNE_HEADER"]).read()
declared = set(re.findall(r"\b(attune_\w+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.S)))
table = subprocess.run(["nm", "-D", "--defined-only", os.environ["ATTUNE_LIBRARY"]], capture_output=True, text=True, check=True).stdout
shown = {line.split()[-1] for line in table.splitlines()}
assert shown == declared, f"shown but not declared: {sorted(shown - declared)}; declared but not shown: {sorted(declared - shown)}"
