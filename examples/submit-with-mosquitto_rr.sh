#!/bin/sh
# Submit a signed and approved build with nothing but curl and mosquitto_rr: for runners where the
# `mailboat` command does not exist.
#
#   submit-with-mosquitto_rr.sh BUILD CONNECTION SUBMISSION
#
# BUILD       what `mailboat release build` wrote
# CONNECTION  connection.toml of a pipeline, with its certificate and key beside it
# SUBMISSION  what `mailboat release submit BUILD --only-write SUBMISSION` wrote
#
# Prints the controller's answer, one JSON object. Exit status: 0 accepted, 1 refused, 9 no answer.
set -eu

build=$1
connection=$2
submission=$3
seconds=60

setting() { sed -n "s/^$1 = \"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$connection"; }
beside() { printf '%s/%s' "$(dirname "$connection")" "$(setting "$1")"; }

fleet=$(setting fleet)
pipeline=$(setting name)
api_url=$(setting api_url)
set -- --cacert "$(beside ca)" --cert "$(beside certificate)" --key "$(beside key)"

# 1. The artifacts, by digest. Put if absent: bytes that are there already are not sent again.
for blob in "$build"/blobs/*; do
    url=$api_url/v1/artifacts/sha256/$(basename "$blob")
    if ! curl --silent --fail --head --output /dev/null "$@" "$url"; then
        curl --silent --show-error --fail --retry 3 "$@" --upload-file "$blob" "$url"
    fi
done

# 2. The submission, and the answer on a reply topic of this job. In base64, because mosquitto_rr
#    sends text only: its -f and -s send an empty message. The broker takes the certificate's name
#    as the client id, so one job of a pipeline at a time.
answer=$(mosquitto_rr -V 5 -q 1 -W "$seconds" \
    -h "$(setting mqtt_host)" -p "$(setting mqtt_port)" \
    --cafile "$(beside ca)" --cert "$(beside certificate)" --key "$(beside key)" \
    -t "mb/1/$fleet/ci/$pipeline/submit" \
    -e "mb/1/$fleet/ci/$pipeline/reply/$$" \
    -m "$(base64 <"$submission")") || answer=""

if [ -z "$answer" ]; then
    echo "no answer within $seconds s; the same submission may be sent again" >&2
    exit 9
fi
printf '%s\n' "$answer"
case $answer in
*'"status":"accepted"'*) exit 0 ;;
*) exit 1 ;;
esac
