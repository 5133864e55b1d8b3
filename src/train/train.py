"""`s2s train` as a stage of its own:  python -m train.train --help"""

import sys

from s2s.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
