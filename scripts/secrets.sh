#!/bin/sh
# Makes the secrets that docker-compose.yml reads: five files in secrets/, a folder that only you may enter.
# Changes nothing that is there already: a database keeps the password that it was made with.
set -eu
cd "$(dirname "$0")/.."

random() { python3 -c 'import secrets; print(secrets.token_hex(32), end="")'; }

umask 077
if [ -e secrets ]; then
    if [ ! -e secrets/admin_token ]; then  # made by a version that knew no tokens
        made=$(mktemp secrets/admin_token.XXXXXX)
        random > "$made"
        chmod 444 "$made"
        mv "$made" secrets/admin_token
        echo "made secrets/admin_token; the rest was there already" >&2
    else
        echo "secrets/ is there already; left as it is" >&2
    fi
    exit 0
fi

made=$(mktemp -d ./secrets.XXXXXX)
trap 'rm -rf "$made"' EXIT
postgres=$(random)
redis=$(random)
printf %s "$postgres" > "$made/postgres_password"
printf %s "$redis" > "$made/redis_password"
printf 'postgresql+psycopg://gradq:%s@postgres:5432/gradq' "$postgres" > "$made/database_url"
printf 'redis://:%s@redis:6379/0' "$redis" > "$made/redis_url"
random > "$made/admin_token"
# Compose mounts a secret with its owner and mode on the host, and the containers run as other users than you; the
# folder's own mode, 700, keeps everybody else out.
chmod 444 "$made"/*
mv "$made" secrets
echo "made secrets/: five files for docker compose"
