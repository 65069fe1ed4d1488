#!/bin/sh
# Makes the passwords that docker-compose.yml reads: four files in secrets/, a folder that only you may enter.
# Changes nothing where they are already: a database keeps the password that it was made with.
set -eu
cd "$(dirname "$0")/.."
if [ -e secrets ]; then
    echo "secrets/ is there already; left as it is" >&2
    exit 0
fi

password() { python3 -c 'import secrets; print(secrets.token_hex(32), end="")'; }

umask 077
made=$(mktemp -d ./secrets.XXXXXX)
trap 'rm -rf "$made"' EXIT
postgres=$(password)
redis=$(password)
printf %s "$postgres" > "$made/postgres_password"
printf %s "$redis" > "$made/redis_password"
printf 'postgresql+psycopg://gradq:%s@postgres:5432/gradq' "$postgres" > "$made/database_url"
printf 'redis://:%s@redis:6379/0' "$redis" > "$made/redis_url"
# Compose mounts a secret with its owner and mode on the host, and the containers run as other users than you; the
# folder's own mode, 700, keeps everybody else out.
chmod 444 "$made"/*
mv "$made" secrets
echo "made secrets/: four files for docker compose"
