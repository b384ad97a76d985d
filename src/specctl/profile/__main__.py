"""`python -m specctl.profile FILE` writes the JSON Schema editors use (`profiles/profile.schema.json`)."""

import sys
from pathlib import Path

from specctl.profile.schema import schema_text

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(schema_text(), encoding="utf-8")
