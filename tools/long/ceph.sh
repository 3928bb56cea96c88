#!/usr/bin/env bash
# A Ceph of one machine (1 monitor, 1 manager, 3 OSDs, 1 MDS, 1 gateway) and `forebay` against it:
# trees through the gateway by S3, a file on CephFS with its stripes.
#
#     tools/long/ceph.sh FOREBAY [OUT.md]      root, Debian packages: ceph-mon ceph-mgr ceph-osd ceph-mds radosgw ceph-fuse attr
#
# Listens on loopback alone, keeps everything in one folder, stops what it started. About two minutes.
set -euo pipefail
forebay=$(realpath "${1:?the binary}") out=${2:-/dev/stdout}
for tool in ceph-mon ceph-mgr ceph-osd ceph-mds radosgw ceph-fuse ceph setfattr; do
  command -v $tool >/dev/null || { echo "skipped: no $tool (apt-get install ceph-mon ceph-mgr ceph-osd ceph-mds radosgw ceph-fuse attr)"; exit 0; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/forebay-ceph-XXXXXX") mon=17789 gateway=17480
mount=$dir/mount; mkdir -p "$dir"/{run,log,mon,mgr,mds,rgw,osd0,osd1,osd2} "$mount"
pids=()
stop() {
  fusermount3 -uz "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  sleep 2
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap stop EXIT

cat > "$dir/ceph.conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = [v2:127.0.0.1:$mon/0]
public_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# The gateway wants "secure" by default, which no authentication cannot give.
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
osd_pool_default_size = 2
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_autoscale_mode = off
osd_pool_default_pg_num = 8
mon_max_pg_per_osd = 1000
osd_objectstore = bluestore
bluestore_block_create = true
bluestore_block_size = 8589934592
osd_memory_target = 939524096
run_dir = $dir/run
log_file = $dir/log/\$name.log
admin_socket = $dir/run/\$name.asok
pid_file = $dir/run/\$name.pid
mon_data = $dir/mon
mgr_data = $dir/mgr
mds_data = $dir/mds
rgw_data = $dir/rgw
osd_data = $dir/osd\$id
crash_dir = $dir/log
[client.rgw.a]
rgw_frontends = beast endpoint=127.0.0.1:$gateway
CONF
export CEPH_CONF=$dir/ceph.conf
fsid=$(sed -n 's/^fsid = //p' "$CEPH_CONF")
quiet() { "$@" >> "$dir/log/setup" 2>&1 || { tail -20 "$dir/log/setup" >&2; exit 1; }; }
up() { "$@" -f >> "$dir/log/${1##*/}.out" 2>&1 & pids+=($!); }

quiet monmaptool --create --addv a "[v2:127.0.0.1:$mon]" --fsid "$fsid" "$dir/monmap"
quiet ceph-mon -i a --mkfs --monmap "$dir/monmap"
up ceph-mon -i a
quiet timeout 60 ceph mon stat
up ceph-mgr -i a
for n in 0 1 2; do
  uuid=$(cat /proc/sys/kernel/random/uuid)
  quiet ceph osd new "$uuid" $n
  quiet ceph-osd -i $n --mkfs --osd-uuid "$uuid"
  up ceph-osd -i $n
done
quiet ceph osd pool create data 8
quiet ceph osd pool create names 8
quiet ceph fs new fs names data
up ceph-mds -i m
up radosgw -n client.rgw.a
for _ in $(seq 120); do ceph mds stat 2>/dev/null | grep -q active && break; sleep 1; done
ceph mds stat | grep -q active || { echo "CephFS did not become active" >&2; exit 1; }
for _ in $(seq 180); do curl -s -o /dev/null "http://127.0.0.1:$gateway" && break; sleep 1; done
quiet radosgw-admin user create --uid=t --display-name=t --access-key=key --secret=secret-of-a-test

export AWS_ENDPOINT_URL=http://127.0.0.1:$gateway AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret-of-a-test
export FOREBAY_CACHE=$dir/cache
# `data` by a signed request that needs no client of its own.
python3 - <<'PY'
import datetime, hashlib, hmac, os, urllib.request
host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
now = datetime.datetime.now(datetime.timezone.utc)
stamp, day, empty = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d"), hashlib.sha256(b"").hexdigest()
for bucket in ("data", "more"):
    names = "host;x-amz-content-sha256;x-amz-date"
    request = f"PUT\n/{bucket}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{stamp}\n\n{names}\n{empty}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
    for part in (day, "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    sign = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers = {"x-amz-date": stamp, "x-amz-content-sha256": empty,
               "Authorization": f"AWS4-HMAC-SHA256 Credential=key/{scope}, SignedHeaders={names}, Signature={sign}"}
    urllib.request.urlopen(urllib.request.Request(f"http://{host}/{bucket}", method="PUT", headers=headers)).read()
PY

mkdir -p "$dir/tree/a/b"
head -c 20000001 /dev/urandom > "$dir/tree/large"; echo small > "$dir/tree/a/b/small"; : > "$dir/tree/a/empty"
ceph-fuse -f "$mount" >> "$dir/log/fuse" 2>&1 & pids+=($!)
for _ in $(seq 60); do mountpoint -q "$mount" && break; sleep 1; done
mkdir "$mount/striped"
setfattr -n ceph.dir.layout.stripe_unit -v 1048576 "$mount/striped"
setfattr -n ceph.dir.layout.stripe_count -v 2 "$mount/striped"
setfattr -n ceph.dir.layout.object_size -v 8388608 "$mount/striped"
failed=0
check() { # a name, then a command
  local name=$1; shift
  if "$@" > "$dir/log/last" 2>&1; then echo "| $name | yes |"; else echo "| $name | **no** |"; sed 's/^/    /' "$dir/log/last" >&2; failed=1; fi
}
{
  echo "# \`forebay\` on $(ceph --version | cut -d' ' -f1-3), $(date +%F)"
  echo; echo "Made by \`tools/long/ceph.sh\`: 1 monitor, 1 manager, 3 OSDs, 1 MDS, 1 gateway on one machine."
  echo; echo "| | works |"; echo "|---|---|"
  check "tree to a bucket, read back" "$forebay" fs cp "$dir/tree" s3://data/tree --verify
  check "again: nothing to do" bash -c "'$forebay' fs cp '$dir/tree' s3://data/tree --json | grep -q '\"copied\": *0'"
  check "bucket to bucket by the gateway" "$forebay" fs cp s3://data/tree s3://more/tree --verify
  check "bucket to disk" "$forebay" fs cp s3://more/tree "$dir/back" --verify
  check "the bytes are equal" diff -r "$dir/tree" "$dir/back"
  check "sync removes what is gone" bash -c "rm '$dir/tree/a/empty' && '$forebay' fs sync '$dir/tree' s3://data/tree --json | grep -q '\"deleted\": *1'"
  check "objects measured, verified" "$forebay" bench storage s3://data/bench/ --engine object --size 16MiB --block-size 64KiB --queue-depth 4 --seconds 1 --repeats 1 --verify
  check "names measured" "$forebay" bench storage s3://data/bench/ --metadata --files 50 --jobs 4 --repeats 1
  check "disk to CephFS, read back" "$forebay" fs cp "$dir/tree" "$mount/striped/tree" --verify
  check "an OSD is killed: copied and read back all the same" bash -c "kill -9 ${pids[4]} || exit 1; sleep 1; '$forebay' fs cp '$dir/back' '$mount/striped/back' --verify"
  check "benchmark on CephFS, verified" "$forebay" bench storage "$mount/striped" --size 16MiB --block-size 64KiB --queue-depth 8 --seconds 1 --repeats 1 --verify
  echo; echo "\`forebay fs stat --layout\` of a file there:"; echo; echo '```text'
  "$forebay" fs stat "$mount/striped/tree/large" --layout || failed=1
  echo '```'
} > "$dir/report"
cat "$dir/report" > "$out"
exit $failed
