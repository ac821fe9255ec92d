"""Lets `python -m app` be the `herdlight` command."""

from app.cli import main

if __name__ == "__main__":
    main()
