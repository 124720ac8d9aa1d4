#!/usr/bin/env bash
# Brings an environment to an image: ops/deploy/deploy.sh ENVIRONMENT IMAGE [--plan]
# Needs the AWS CLI with rights on CloudFormation, and VITRINE_TEMPLATES_BUCKET.
# The templates' alarms take a bad deployment back by themselves; see ops/README.md.
set -euo pipefail
environment=${1:?environment: staging or production}
image=${2:?image: REGISTRY/vitrine@sha256:... or :tag}
plan=${3:-}
: "${VITRINE_TEMPLATES_BUCKET:?names the bucket that the nested templates are put into}"
here=$(cd "$(dirname "$0")" && pwd)
packaged=$(mktemp)
trap 'rm -f "$packaged"' EXIT
aws cloudformation package --template-file "$here/cloudformation/vitrine.yaml" \
    --s3-bucket "$VITRINE_TEMPLATES_BUCKET" --s3-prefix "vitrine/$environment" \
    --output-template-file "$packaged"
parameters=$(python3 -c '
import json, sys
for name, value in json.load(open(sys.argv[1])).items():
    print(f"{name}={value}")' "$here/cloudformation/parameters/$environment.json")
running=$(aws cloudformation describe-stacks --stack-name "vitrine-$environment" \
    --query "Stacks[0].Parameters[?ParameterKey=='Image'].ParameterValue" --output text 2>/dev/null || true)
options=()
if [ "$plan" = --plan ]; then
    options+=(--no-execute-changeset)
fi
# shellcheck disable=SC2086  # one word a parameter
aws cloudformation deploy --template-file "$packaged" --stack-name "vitrine-$environment" \
    --capabilities CAPABILITY_NAMED_IAM CAPABILITY_AUTO_EXPAND --no-fail-on-empty-changeset \
    --parameter-overrides $parameters "Image=$image" ${options[@]+"${options[@]}"}
if [ "$plan" != --plan ] && [ -n "$running" ] && [ "$running" != "$image" ]; then
    # What rollback.sh goes back to.
    aws ssm put-parameter --name "/vitrine/$environment/previous-image" --type String \
        --value "$running" --overwrite > /dev/null
fi
