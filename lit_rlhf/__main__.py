"""``python -m lit_rlhf`` is the same as ``lit-rlhf``."""

from lit_rlhf.cli.main import main

if __name__ == "__main__":
    main()
