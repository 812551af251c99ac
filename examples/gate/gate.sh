#!/bin/sh
# A step of any CI: 0 pass, 1 fail, 3 undecided. The report is written whatever the verdict; keep runs/gate as an artifact.
set -eu
MODEL=${1:-ct-bodysite}
exec robustkit audit "$MODEL" --images phantom/C --max-sar 5% --at 50 --until-decided -n 500 --out "${2:-runs/gate}"
