#!/bin/sh
# Creates the secrets that docker-compose.yml reads: five files in secrets/, a folder that only you can access.
# Existing files are not changed: a database keeps the password with which it was initialized.
set -eu
cd "$(dirname "$0")/.."

random() { python3 -c 'import secrets; print(secrets.token_hex(32), end="")'; }

umask 077
if [ -e secrets ]; then
    if [ ! -e secrets/admin_token ]; then  # created by a version without tokens
        made=$(mktemp secrets/admin_token.XXXXXX)
        random > "$made"
        chmod 444 "$made"
        mv "$made" secrets/admin_token
        echo "created secrets/admin_token; the other files existed already" >&2
    else
        echo "secrets/ exists already; nothing was changed" >&2
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
# Compose mounts a secret with its owner and mode on the host, and the containers run as other users than you. The mode
# of the folder, 700, denies access to all other users of the host.
chmod 444 "$made"/*
mv "$made" secrets
echo "created secrets/: five files for docker compose"
