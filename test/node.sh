# node.sh  Sourced by the scripts that run a whole node, or a part of one.
# bus_config FILE  makes the configuration of a system bus at its usual place, where everybody may do everything.
# node_config DIR BRIDGE SUBNET  makes DIR/net.d (a bridge, addresses from SUBNET, host ports) and DIR/postern.toml, which names it
# and DIR/registries.conf.
node_config() {
  mkdir "$1/net.d"
  cat > "$1/net.d/10-pods.conflist" <<N
{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"$2","isGateway":true,"ipMasq":true,"hairpinMode":true,
"ipam":{"type":"host-local","dataDir":"$1/ipam","ranges":[[{"subnet":"$3"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}
N
  cat > "$1/postern.toml" <<C
[image]
registries_conf = "$1/registries.conf"
[network]
conf_dir = "$1/net.d"
bin_dirs = ["/usr/lib/cni"]
C
}
bus_config() {
  cat > "$1" <<B
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
B
}
