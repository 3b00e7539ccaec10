#!/bin/bash
# Reads a mount with the tools of every day, and compares. Usage: data_tour.sh MOUNT ORIGINAL SCRATCH. Prints `ok` at the end.
set -euo pipefail
mount=$1 original=$2 scratch=$3
mkdir -p "$scratch"

cmp <(cat "$mount/big.bin") "$original/big.bin"

cp -r "$mount/text" "$scratch/text"
diff -r "$scratch/text" "$original/text"

# A line for each difference in content; size and time aren't looked at with -c.
test -z "$(rsync --recursive --checksum --dry-run --itemize-changes --no-times --no-perms "$mount/" "$original/" | grep '^[<>c]')"

diff <(cd "$mount" && grep -rc needle text | sort) <(cd "$original" && grep -rc needle text | sort)

tar -C "$mount" -cf - . | tar -C "$scratch" -xf - --one-top-level=tar --no-same-owner
diff -r "$scratch/tar" "$original"

(cd "$original" && find . -type f -exec sha256sum {} +) | (cd "$mount" && sha256sum --check --quiet --strict)

rm -rf "$scratch"
echo ok
