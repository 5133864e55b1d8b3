# Stands in for a fresh Debian 12 machine of a cloud: systemd, sshd, a user with sudo, Python for Ansible, nothing else.
# hadolint ignore=DL3006
FROM local/debian
RUN apt-get update -q \
    && apt-get install -y -q --no-install-recommends \
        systemd systemd-sysv dbus openssh-server sudo python3 python3-apt iproute2 procps kmod \
    && rm -rf /var/lib/apt/lists/* \
    && systemctl mask getty.target systemd-udevd.service systemd-logind.service systemd-resolved.service \
        systemd-modules-load.service sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
        dev-hugepages.mount dev-mqueue.mount systemd-remount-fs.service \
    && systemctl enable ssh \
    && useradd --create-home --shell /bin/bash --groups sudo s2s \
    && echo "s2s ALL=(ALL) NOPASSWD:ALL" >/etc/sudoers.d/s2s \
    && install -d -m 700 -o s2s -g s2s /home/s2s/.ssh
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
