#!/bin/sh
# Starts one role of the lab service and becomes it (exec), so that signals reach it directly.
#
#   entrypoint.sh web       HTTP and sockets on PATCHBAY_PORT (default 8000), for a TLS proxy in front
#   entrypoint.sh worker    one Celery process that computes runs; one container a GPU
#   entrypoint.sh beat      the clock that wakes workers for what was missed; exactly one
#   entrypoint.sh migrate   bring the database to this version, then end
#   entrypoint.sh manage …  any management command
#   entrypoint.sh celery|python|… …  anything else, as it is
set -eu

role=${1:-web}
[ "$#" -eq 0 ] || shift

case "$role" in
web)
    # One process a container: sockets live in it, so scale by containers, not by --workers.
    exec uvicorn interp_app.asgi:application \
        --host 0.0.0.0 --port "${PATCHBAY_PORT:-8000}" \
        --loop asyncio --timeout-graceful-shutdown 5 --no-server-header \
        --ws-max-size 65536 --ws-per-message-deflate false --ws-ping-interval 20 --ws-ping-timeout 60 \
        --proxy-headers --forwarded-allow-ips "${FORWARDED_ALLOW_IPS:-127.0.0.1}" "$@"
    ;;
worker)
    # SIGTERM puts the run in hand back in the queue after its current tile, then ends.
    exec celery -A interp_app.celery worker \
        -P prefork -c 1 -Q "${PATCHBAY_QUEUE:-gpu}" -n "${PATCHBAY_WORKER:-worker}@%h" \
        --without-gossip --without-mingle --loglevel INFO "$@"
    ;;
beat)
    exec celery -A interp_app.celery beat --loglevel INFO "$@"
    ;;
migrate)
    exec python manage.py migrate --noinput "$@"
    ;;
manage)
    exec python manage.py "$@"
    ;;
*)
    exec "$role" "$@"
    ;;
esac
