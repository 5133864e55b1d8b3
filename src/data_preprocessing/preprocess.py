"""`s2s data preprocess` as a stage of its own:  python -m data_preprocessing.preprocess --help"""

import sys

from s2s.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "preprocess"]
    main()
