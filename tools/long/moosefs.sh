#!/usr/bin/env bash
# A MooseFS of one machine (1 master, 2 chunkservers, every chunk on both) and `forebay` on its mount, while
# one of the chunkservers is killed.
#
#     tools/long/moosefs.sh FOREBAY [OUT.md]      root, Debian packages: moosefs-master moosefs-chunkserver moosefs-client iproute2
#
# Lives in a network namespace of its own, since a chunkserver takes no master on loopback; keeps everything in
# one folder and stops what it started. About a minute.
set -euo pipefail
forebay=$(realpath "${1:?the binary}") out=${2:-/dev/stdout}
export PATH=$PATH:/usr/sbin:/sbin
for tool in mfsmaster mfschunkserver mfsmount mfssetgoal ip nsenter; do
  command -v $tool >/dev/null || { echo "skipped: no $tool (apt-get install moosefs-master moosefs-chunkserver moosefs-client iproute2)"; exit 0; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/forebay-moosefs-XXXXXX") space=forebay-$$ address=10.77.0.1
mount=$dir/mount
stop() {
  umount -l "$mount" 2>/dev/null || true
  for pid in $(cat "$dir"/*/*.lock "$dir"/*/.*.lock 2>/dev/null | tr -dc '0-9\n'); do kill -9 "$pid" 2>/dev/null || true; done
  [ -z "${client:-}" ] || kill "$client" 2>/dev/null || true
  sleep 1
  ip netns del $space 2>/dev/null || true
  rm -rf "$dir"
}
trap stop EXIT
mkdir -p "$mount" "$dir"/{master,chunk1,chunk2,disk1,disk2}

ip netns add $space
ip -n $space link set lo up
ip -n $space link add here type veth peer name there
ip -n $space addr add $address/24 dev here
ip -n $space link set here up
ip -n $space link set there up
inside() { nsenter --net=/var/run/netns/$space "$@"; }
quiet() { "$@" >> "$dir/log" 2>&1 || { tail -20 "$dir/log" >&2; exit 1; }; }

echo "* / rw,alldirs,maproot=0" > "$dir/exports"
printf 'MFSM NEW' > "$dir/master/metadata.mfs"
cat > "$dir/master.cfg" <<CONF
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $dir/master
EXPORTS_FILENAME = $dir/exports
MATOML_LISTEN_HOST = $address
MATOCS_LISTEN_HOST = $address
MATOCL_LISTEN_HOST = $address
CONF
quiet inside mfsmaster -c "$dir/master.cfg" start
for n in 1 2; do
  echo "$dir/disk$n" > "$dir/disks$n"
  cat > "$dir/chunk$n.cfg" <<CONF
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $dir/chunk$n
HDD_CONF_FILENAME = $dir/disks$n
HDD_LEAVE_SPACE_DEFAULT = 256MiB
MASTER_HOST = $address
CSSERV_LISTEN_HOST = $address
CSSERV_LISTEN_PORT = $((9421 + n))
CONF
  quiet inside mfschunkserver -c "$dir/chunk$n.cfg" start
done
sleep 3
quiet inside mfsmount "$mount" -H $address
mkdir "$mount/twice"
quiet inside mfssetgoal 2 "$mount/twice"

mkdir -p "$dir/tree/a/b"
head -c 60000001 /dev/urandom > "$dir/tree/large"; echo small > "$dir/tree/a/b/small"; : > "$dir/tree/a/empty"
failed=0
check() { # a name, then a command
  local name=$1; shift
  if "$@" > "$dir/last" 2>&1; then echo "| $name | yes |"; else echo "| $name | **no** |"; sed 's/^/    /' "$dir/last" >&2; failed=1; fi
}
# The process that listens for chunk server 2.
victim() { inside ss -Hltnp "sport = :9423" | sed -n 's/.*pid=\([0-9]*\).*/\1/p' | head -1; }
{
  echo "# \`forebay\` on $(mfsmaster -v 2>&1 | head -1 | sed 's/version: /MooseFS /'), $(date +%F)"
  echo; echo "Made by \`tools/long/moosefs.sh\`: 1 master, 2 chunkservers, every chunk on both."
  echo; echo "| | works |"; echo "|---|---|"
  check "disk to mount, read back" "$forebay" fs cp "$dir/tree" "$mount/twice/tree" --verify
  check "mount to disk" "$forebay" fs cp "$mount/twice/tree" "$dir/back" --verify
  check "the bytes are equal" diff -r "$dir/tree" "$dir/back"
  check "benchmark, verified" "$forebay" bench storage "$mount/twice" --size 32MiB --block-size 64KiB --queue-depth 8 --seconds 1 --repeats 1 --verify
  check "random reads, verified, while a chunkserver is killed" bash -c "
    '$forebay' bench storage '$mount/twice' --size 64MiB --block-size 64KiB --queue-depth 8 --seconds 8 --repeats 1 --verify & job=\$!
    sleep 4; kill -9 $(victim) || exit 1; wait \$job"
  check "copied and read back with one of two left" "$forebay" fs cp "$dir/tree" "$mount/twice/after" --verify
  check "what both held is whole" diff -r "$dir/tree" "$mount/twice/tree"
} > "$dir/report"
cat "$dir/report" > "$out"
exit $failed
