"""The script that ExaBGP runs: `python -I -S bridge_main.py SOCKET STATE DIGEST`.

With these options Python looks neither at the environment nor at installed packages: nothing but the standard library
and the bridge itself is loaded.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # last, so that no module there hides one of Python's

from calico_py.bgp.bridge_loop import main

main(*sys.argv[1:4])
