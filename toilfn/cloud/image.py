"""The container image of a Slurm cluster.

The controller unpacks the image, and the nodes mount its file system. Slurm's daemons run outside of it, since they
need the machine. Leaders and workers run in the file system of the image, but with the machine's processes, network,
home directories and temporary files. bubblewrap starts each of them there, without privileges, waits for it, and
returns its exit status.
"""

from __future__ import annotations

import shlex

__all__ = ["PLACE", "enter", "mount_script", "program", "unpack_script"]

PLACE = "/opt/image"
"""The folder of the image on all machines: ``root`` is its file system, and ``bin`` has programs that run in it."""

_UNPACK = """\
install -d {place}/root {place}/bin
container=$(podman create --quiet {image})
podman export "$container" | tar -x -C {place}/root
podman image inspect --format '{{{{range .Config.Env}}}}{{{{println .}}}}{{{{end}}}}' {image} > {place}/environment
podman rm "$container"
# These files and folders must exist, since those of the machine are mounted over them.
mkdir -p {place}/root/etc/slurm {place}/root{place}/bin
touch {place}/root/etc/passwd {place}/root/etc/group {place}/root/etc/hosts {place}/root/etc/resolv.conf
# The interpreter has the same path inside and outside, so that leaders give jobs a path that nodes know.
python=$(chroot {place}/root sh -c 'command -v python3')
ln -sf "$python" {place}/root{place}/bin/python
install -m 755 {etc}/enter {place}/enter
install -m 755 {etc}/image-python {place}/bin/python
install -m 755 {etc}/image-toilfn {place}/bin/toilfn
"""

_ALLOW = """\
# Ubuntu lets only some programs have user namespaces.
limit=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
[ ! -e "$limit" ] || echo 0 > "$limit"
"""

_ENTER = """\
#!/bin/sh
# Runs a command in the file system of the cluster's image, with the folders of this machine that jobs share.
# The options are built from last to first: each is added before the others.
place={place}
while IFS= read -r line; do
    case $line in
    '' | HOME=* | USER=* | HOSTNAME=*) ;;
    *=*) set -- --setenv "${{line%%=*}}" "${{line#*=}}" "$@" ;;
    esac
done < "$place/environment"
for file in passwd group hosts resolv.conf slurm; do
    [ ! -e "/etc/$file" ] || set -- --ro-bind "/etc/$file" "/etc/$file" "$@"
done
for path in /*; do
    name=${{path##*/}}
    case $name in
    dev | home | media | mnt | proc | run | srv | sys | tmp) ;;
    *) if [ -e "$place/root/$name" ] || [ -L "$place/root/$name" ]; then continue; fi ;;
    esac
    [ -L "$path" ] || set -- --dev-bind-try "$path" "$path" "$@"
done
for path in "$place"/root/*; do
    name=${{path##*/}}
    case $name in
    dev | home | media | mnt | proc | run | srv | sys | tmp) continue ;;
    esac
    if [ -L "$path" ]; then
        set -- --symlink "$(readlink "$path")" "/$name" "$@"
    else
        set -- --ro-bind "$path" "/$name" "$@"
    fi
done
# Slurm sends signals to all processes of a job. bubblewrap must survive until the process in the image has saved its
# state.
trap '' TERM
exec bwrap "$@"
"""


def enter(place: str = PLACE) -> str:
    """Return the program that runs a command in the image."""
    return _ENTER.format(place=shlex.quote(place))


def program(words: str, place: str = PLACE) -> str:
    """Return a shell script that runs a command in the image.

    Parameters
    ----------
    words : str
        The beginning of the command line. The script appends its own arguments.
    place : str, optional
        The folder of the image.
    """
    return f'#!/bin/sh\nexec {place}/enter {words} "$@"\n'


def unpack_script(image: str, etc: str, place: str = PLACE) -> str:
    """Return the part of a controller's boot script that unpacks the image.

    Parameters
    ----------
    image : str
        The name of the image, with its registry.
    etc : str
        The folder with the programs that cloud-init has written.
    place : str, optional
        The folder for the image.
    """
    return _UNPACK.format(image=shlex.quote(image), etc=etc, place=place) + _ALLOW


def mount_script(place: str = PLACE) -> str:
    """Return the part of a node's boot script that mounts the image from the controller."""
    return f"install -d {place}\nmount -t nfs controller:{place} {place}\n{_ALLOW}"
