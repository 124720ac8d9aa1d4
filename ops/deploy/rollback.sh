#!/usr/bin/env bash
# Brings an environment back to the image before the one that runs: ops/deploy/rollback.sh ENVIRONMENT
# The schema stays: migrations are compatible with the version before (ops/README.md, Upgrade).
set -euo pipefail
environment=${1:?environment: staging or production}
here=$(cd "$(dirname "$0")" && pwd)
previous=$(aws ssm get-parameter --name "/vitrine/$environment/previous-image" \
    --query Parameter.Value --output text)
case "$previous" in
'' | none) echo "there is no image before the one that runs" >&2; exit 1 ;;
esac
echo "rolling $environment back to $previous"
exec "$here/deploy.sh" "$environment" "$previous"
