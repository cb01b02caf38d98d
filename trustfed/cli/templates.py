"""An example configuration for each process, commented: what --print-config prints. A test loads them."""

HUB = """\
# trustfed hub: one per organisation. Paths may be relative to this file. Durations: 90s, 2m, 1h30m, 30d.

# The hub's own trust domain; no cluster has this name. It cannot be changed later.
trust_domain = "trustfed-hub.example"
# Journal, issuance ledger and, unless [keys] says otherwise, the keys. One process at a time.
data_dir = "/var/lib/trustfed/hub"
# Where `trustfed domain`, `grant`, `root`, ... talk to the hub: who may open this socket (0600) is an admin.
admin_socket = "/run/trustfed/hub.sock"
# /live, /ready and /metrics over HTTP, for a supervisor and Prometheus; off unless set:
# health = "127.0.0.1:8083"
# What clusters and browsers reach the hub by; these names stand in its certificate.
dns_names = ["hub.example"]

# Clusters connect here (gRPC over mTLS). `advertise` is what they are told to dial.
[grpc]
listen = "0.0.0.0:8443"
advertise = "hub.example:8443"

# Enrolment, API and published bundles. Its certificate is the hub's own SVID, below the federation's root.
[https]
listen = "0.0.0.0:9443"
advertise = "hub.example:9443"

# The same once more with a certificate of the Web PKI, for readers that know no other:
# [web]
# listen = "0.0.0.0:443"
# certificate_file = "/etc/trustfed/web.pem"
# key_file = "/etc/trustfed/web.key"

# Where the root's key lies: "file" (encrypted files), "transit" (Vault or OpenBao) or "memory" (trials only).
[keys]
store = "file"
directory = "/var/lib/trustfed/hub-keys"
# passphrase_file = "/run/secrets/trustfed-passphrase"

# Bundles and the bundle map are also written to a directory, for any web server. May be left out.
[publication]
directory = "/var/lib/trustfed/public"
# crl_url = "https://hub.example:9443/crl"

[policy]
root_ttl = "3650d"
intermediate_ttl = "7d"
hub_authority_ttl = "30d"
hub_svid_ttl = "1h"

[log]
level = "info"
"""

CLUSTER = """\
# trustfed cluster: the control plane of one trust domain, whose name comes from its enrolment token.
# Paths may be relative to this file. Durations: 90s, 2m, 1h30m, 30d.

# Journal and issuance ledger. One process at a time.
data_dir = "/var/lib/trustfed/cluster"
# Where `trustfed entry`, `node`, `authority`, ... talk to the cluster: who may open this socket (0600) is an admin.
admin_socket = "/run/trustfed/cluster.sock"
# /live, /ready and /metrics over HTTP, for a supervisor and Prometheus; off unless set:
# health = "127.0.0.1:8082"

# Agents connect here (gRPC over mTLS). `advertise` is what they are told to dial; may be left out.
[grpc]
listen = "0.0.0.0:8444"
advertise = "trust.us-west.example:8444"

# The SPIFFE bundle endpoint (https_spiffe), and where nodes are attested.
[bundle_spiffe]
listen = "0.0.0.0:9444"
advertise = "trust.us-west.example:9444"

# The same bundle with a certificate of the Web PKI (https_web):
# [bundle_web]
# listen = "0.0.0.0:443"
# certificate_file = "/etc/trustfed/web.pem"
# key_file = "/etc/trustfed/web.key"

# Where the authorities' keys lie: "file" (encrypted files), "transit" (Vault or OpenBao) or "memory" (trials only).
[keys]
store = "file"
directory = "/var/lib/trustfed/cluster-keys"
workers = 1

[policy]
svid_ttl = "1h"
svid_ttl_max = "24h"
jwt_ttl = "5m"
jwt_ttl_max = "1h"
node_ttl = "1h"
authority_ttl = "72h"
safety_margin = "10m"
refresh_hint = "5m"
# Plain SPIFFE readers may poll the bundle: a new authority waits for them before it signs. false only without any.
polled_readers = true

[log]
level = "info"
"""

AGENT = """\
# trustfed agent: one per node. Paths may be relative to this file.

# The node's key and SVID (0700). One process at a time.
data_dir = "/var/lib/trustfed/agent"
# The SPIFFE Workload API: every local process may connect, and gets what its entries say.
socket = "/run/trustfed/agent.sock"
# Where `trustfed agent status` looks (0600).
admin_socket = "/run/trustfed/agent-admin.sock"
# /live, /ready and /metrics over HTTP; off unless set:
# health = "127.0.0.1:8081"

[log]
level = "info"

# What local processes may make the agent hold.
[limits]
connections = 4096
connections_per_user = 1024
entries = 10000
jwt_svids = 1000
"""
