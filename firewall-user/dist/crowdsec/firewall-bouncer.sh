#!/bin/sh
# CrowdSec's decisions become bans of `firewall`: the script that its custom bouncer starts for each of them, as
#
#     firewall-bouncer.sh add|del ADDRESS|RANGE SECONDS REASON JSON
#
# (https://docs.crowdsec.net/u/bouncers/custom/). Put it where only root can write, and in
# /etc/crowdsec/bouncers/crowdsec-custom-bouncer.yaml write
#
#     bin_path: /usr/local/sbin/firewall-bouncer.sh
#
# Bans end in the kernel when the decision's time is over, whether the bouncer still runs or not. Whom the rule file has under
# never-ban is not banned, and the script says so.
set -eu

firewall=${FIREWALL:-firewall}
what=$1
target=$2
# A number of seconds, or a time as CrowdSec itself writes it: 3h59m57.5s.
seconds=$(printf '%s' "${3-}" | sed -nE 's/^([0-9]+)(\.[0-9]+)?$/\1/p
    s/^(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)(\.[0-9]+)?s)?$/0\2*3600+0\4*60+0\6/p' | sed 's/\b0*\([0-9]\)/\1/g')
seconds=$((${seconds:-0}))
reason=$(printf '%s' "crowdsec ${4-}" | tr -d '[:cntrl:]' | cut -c 1-100)

case $what in
add)
    # The firewall takes 365 days at most.
    if [ "$seconds" -lt 1 ]; then
        seconds=1
    elif [ "$seconds" -gt 31536000 ]; then
        seconds=31536000
    fi
    # A longer ban that somebody else has given stays.
    exec "$firewall" ban --for "${seconds}s" --keep-longer --reason "$reason" -- "$target"
    ;;
del)
    exec "$firewall" unban --reason "$reason" -- "$target"
    ;;
*)
    echo "usage: $0 add|del ADDRESS|RANGE SECONDS REASON JSON" >&2
    exit 2
    ;;
esac
