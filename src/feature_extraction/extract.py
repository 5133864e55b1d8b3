"""`s2s data features` as a stage of its own:  python -m feature_extraction.extract --help"""

import sys

from s2s.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "features"]
    main()
