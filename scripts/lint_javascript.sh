#!/bin/sh
# Format and lint of the dashboard's scripts and style sheets by Biome, in the version that biome.json names. npx downloads
# it once, into its own cache. Where there is no npx (Node.js) the check is skipped, and says so; with CI=true it fails.
#
#   sh scripts/lint_javascript.sh            check
#   sh scripts/lint_javascript.sh --write    format, and apply the safe fixes
set -eu
cd "$(dirname "$0")/.."

if ! command -v npx >/dev/null 2>&1; then
    if [ "${CI:-}" = true ]; then
        echo "JavaScript is not linted: npx is not installed, and CI must have it (Debian, Ubuntu: apt install npm)" >&2
        exit 1
    fi
    echo "JavaScript is not linted: npx is not installed (Debian, Ubuntu: apt install npm)"
    exit 0
fi

version=$(sed -n 's|.*biomejs.dev/schemas/\([0-9.]*\)/schema.json.*|\1|p' biome.json)
export NPM_CONFIG_UPDATE_NOTIFIER=false
exec npx --yes "@biomejs/biome@$version" check --error-on-warnings "$@"
