"""`s2s data collect` as a stage of its own:  python -m data_collection.collect --help"""

import sys

from s2s.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "collect"]
    main()
