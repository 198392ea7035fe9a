#!/bin/sh
# image.sh FOLDER: make a Debian 12 LXC host for QEMU in FOLDER: vmlinuz, initrd and root.img (ext4). As root.
# Whatever the disk behind it (/dev/vdb) holds as a tar archive is unpacked over / at boot, and its /run.sh is run.
set -eu
folder=$1
root=$folder/root

packages=linux-image-cloud-amd64,systemd-sysv,dbus,udev,kmod,procps,iproute2,iptables,dnsmasq-base,python3
packages=$packages,lxc,lxc-templates,lxcfs,apparmor,uidmap,busybox-static,lvm2,e2fsprogs
# The initrd brings what finds the disk, and no more: it is unpacked at each boot.
mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
    --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/initramfs-tools/hooks/dmsetup' \
    --dpkgopt='path-exclude=/usr/share/initramfs-tools/hooks/lvm2' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"
        echo MODULES=list > "$1/etc/initramfs-tools/conf.d/small"
        printf "%s\n" virtio_pci virtio_blk ext4 > "$1/etc/initramfs-tools/modules"' \
    bookworm "$root" ${MIRROR:+"$MIRROR"}

cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
cp "$root"/boot/initrd.img-* "$folder/initrd"
rm -rf "$root"/boot/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
echo guest > "$root/etc/hostname"
echo '127.0.0.1 localhost guest' > "$root/etc/hosts"
echo '/dev/vda / ext4 defaults 0 0' > "$root/etc/fstab"
rm -f "$root/etc/resolv.conf"
# The template of a busybox container starts one process for each of 270 links, which is most of the minute that it takes
# where the processor is emulated. The same links, made once:
links=/usr/local/lib/busybox-links
mkdir "$root$links"
chroot "$root" busybox --list | grep -v busybox | (cd "$root$links" && xargs -n1 ln -s busybox)
sed -i "s#^ *./busybox --list | .*xargs -n1 ln -s busybox#cp -P $links/* .#" "$root/usr/share/lxc/templates/lxc-busybox"
# Nobody logs in, nothing is updated, and no network but that of the containers.
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty@.service lxc.service lvm2-monitor.service blk-availability.service; do
    systemctl --root="$root" --quiet disable "$unit" 2>/dev/null || true
done
systemctl --root="$root" --quiet set-default multi-user.target

cat > "$root/etc/systemd/system/payload.service" <<'UNIT'
[Unit]
Description=Unpack the second disk, run its /run.sh and power off
After=basic.target lxc-net.service lxcfs.service apparmor.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/payload
TimeoutStartSec=infinity
Delegate=yes
[Install]
WantedBy=multi-user.target
UNIT
# What it prints goes out on the second serial line, through a pipe, as nobody is there to look at colours; its status last.
cat > "$root/usr/local/sbin/payload" <<'SCRIPT'
#!/bin/sh
stty -F /dev/ttyS1 -opost
{ tar -xf /dev/vdb -C / && sh /run.sh; echo "exit status $?"; } </dev/null 2>&1 | cat >/dev/ttyS1
sleep 0.2
exec systemctl --force --force poweroff >/dev/null
SCRIPT
chmod 755 "$root/usr/local/sbin/payload"
systemctl --root="$root" --quiet enable payload.service

truncate -s 4G "$folder/root.img"
mke2fs -q -F -t ext4 -L root -d "$root" "$folder/root.img"
rm -rf "$root"
