#!/bin/sh
# A shell script that reports: theorbo run -- examples/shell/report.sh [FILE...]
#
# Each file given (this script, if there is none) is checksummed. Without a bus the same calls print.
set -eu
[ $# -gt 0 ] || set -- "$0"

theorbo emit log "checksums of $# file(s) on $(uname -n)"
number=0
for file in "$@"; do
    sum=$(sha256sum <"$file")
    number=$((number + 1))
    theorbo emit progress "$number" --total $# --unit files
    theorbo emit log "${sum%% *}  $file"
done
theorbo emit result --summary "$number file(s) checked"
