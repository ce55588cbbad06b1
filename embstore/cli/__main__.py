"""``python -m embstore.cli`` is ``embstore``."""

from embstore.cli import main

if __name__ == "__main__":
    main()
