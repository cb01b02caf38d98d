"""An example configuration for each process, commented: what --print-config prints. A test loads them."""

HUB = """\
# trustfed hub: one per organisation. Paths may be relative to this file. Durations: 90s, 2m, 1h30m, 30d.

# The hub's own trust domain; no cluster has this name. It cannot be changed later.
trust_domain = "trustfed-hub.example"
# Journal, issuance ledger and, unless [keys] says otherwise, the keys. One process at a time.
data_dir = "/var/lib/trustfed/hub"
# Where `trustfed domain`, `grant`, `root`, ... talk to the hub: who may open this socket (0600) is an admin.
admin_socket = "/run/trustfed/hub.sock"
# A Unix group whose members may open it too (0660). Commands on CAs take two people: two uids, two logins.
# admin_group = "trustfed-admins"
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
# timestamp_ttl = "1h"  # how long a reader of the protected publication can be shown old news

# More places, each tried on its own. A bucket; without keys and role the SDK's chain gives the credentials:
# [[publication.targets]]
# name = "cdn"
# kind = "s3"
# bucket = "trust-bundles"
# prefix = "prod/"
# region = "eu-central-1"
# role_arn = "arn:aws:iam::123456789012:role/trustfed-publisher"
# A web server that takes PUT with If-Match:
# [[publication.targets]]
# name = "mirror"
# kind = "http"
# url = "https://mirror.example/trust"
# bearer_token_file = "/run/secrets/mirror-token"

# The dashboard stands at /dashboard on the doors above; `trustfed hub login` makes a link that opens it once.
# [dashboard]
# enabled = true
# address = "https://hub.example"  # where browsers find it, if that is not the door itself

# Login with your organisation's accounts (OpenID Connect). Its redirect URI is ADDRESS/dashboard/oidc/callback.
# [oidc]
# issuer = "https://id.example/realms/staff"
# client_id = "trustfed"
# client_secret_file = "/run/secrets/oidc"  # left out: a public client, which PKCE alone protects
# roles_claim = "groups"
# roles = { "platform-admins" = "admin", "platform" = "operator", "audit" = "auditor", "everybody" = "viewer" }
# uids = { "248289761001" = 1001 }  # whose account of this machine a subject is: where two are needed both are one person

# Once a day the newest signed checkpoint of the journal, for an auditor to fetch and keep:
# [evidence]
# checkpoint_every = "5m"
# witness_directory = "/srv/trustfed-witness"

# One webhook that is told of alarms, where no Alertmanager is; its messages are signed (Standard Webhooks).
# [alerts]
# webhook = "https://hooks.example/trustfed"
# key_file = "/run/secrets/webhook-key"  # (umask 077; echo whsec_$(openssl rand -base64 32) > FILE)

[policy]
root_ttl = "3650d"
intermediate_ttl = "7d"
hub_authority_ttl = "30d"
hub_svid_ttl = "1h"

# How long a command on a CA waits for the second person, 1m to 24h:
# [approvals]
# expiry = "1h"

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
# A Unix group whose members may open it too (0660). Commands on CAs take two people: two uids.
# admin_group = "trustfed-admins"
# /live, /ready and /metrics over HTTP, for a supervisor and Prometheus; off unless set:
# health = "127.0.0.1:8082"

# Agents connect here (gRPC over mTLS). `advertise` is what they are told to dial; may be left out.
[grpc]
listen = "0.0.0.0:8444"
advertise = "trust.us-west.example:8444"
# Further addresses of the same door, which agents try in turn:
# advertise_also = ["trust-2.us-west.example:8444"]

# The SPIFFE bundle endpoint (https_spiffe), and where nodes are attested. Peers read the bundle here while the hub is away.
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
# How long a peer's bundle is used after its domain last confirmed it, unless its grant says otherwise.
stale_limit = "30d"
# The longest life of reserve SVIDs that `trustfed node reserve` may give; authority_ttl must be more than twice it. 0s: none.
reserve_ttl_max = "0s"

# Bundle endpoints of others: foreign peers (`trustfed peer`), and members while the hub is away. Never asked, whatever a name
# resolves to: loopback and link-local addresses that stand in no network here, and a cloud's metadata service in any case.
[foreign]
allow_addresses = []
refuse_private = false
timeout = "15s"
least_refresh = "15s"

# The mesh (docs/mesh.md). Everything has a default. Gateways on loopback, link-local and such are refused unless their network
# stands here; a directory of YAML documents that says what gateways, exports and imports there are is applied when it changes.
# [mesh]
# allow_networks = []
# directory = "/etc/trustfed/mesh"
# root_namespace = "istio-system"
# gateway_selector = ["istio=eastwestgateway"]
# max_connection_duration = "1h"

# Nodes may prove who they are by their AWS identity, beside join tokens. STS is asked at this address only, and nodes sign
# for the same one. A rule names every session of one exact role (the session's name is the node's), or one exact identity.
# [attestation.aws_iam]
# sts_endpoint = "https://sts.eu-central-1.amazonaws.com"
# [[attestation.aws_iam.rules]]
# arn = "arn:aws:sts::123456789012:assumed-role/EdgeNode/*"
# node = "edge-{session}"
# groups = ["edge"]

# Istio's CA protocol for the workloads of this cluster's own mesh (CA_ADDR of istio-agent, CA_ADDRESS of ztunnel): a service
# account gets spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT. Whose a token is, the issuer's keys say, or else the Kubernetes
# API (TokenReview; needs trustfed[kubernetes]), which also says which pods run on a ztunnel's node.
# [istio_ca]
# listen = "0.0.0.0:15012"
# dns_names = ["trustfed-ca.istio-system.svc"]
# exclude = ["kube-system"]
# ztunnel = ["istio-system/ztunnel"]
# [istio_ca.jwks]
# issuer = "https://oidc.eks.eu-central-1.amazonaws.com/id/EXAMPLE"
# url = "https://oidc.eks.eu-central-1.amazonaws.com/id/EXAMPLE/keys"
# [istio_ca.kubernetes]
# url = "https://kubernetes.default.svc"

# While nobody else speaks of a peer, its bundle is read in the protected publication, from this TUF root on. AWS credentials
# are found by the SDK's own chain, or by STS for a role. Needs trustfed[edge].
# [store]
# url = "s3://trust-bucket/prod"
# root_file = "/etc/trustfed/store-root.json"
# role_arn = "arn:aws:iam::123456789012:role/TrustReader"

# Facts of what became of each SVID: how long they stay, which orders of the hub this cluster takes (also quarantine, prepare,
# activate, taint, pause, resume), and a folder of the auditor's that gets a signed checkpoint a day.
# [evidence]
# keep = "396d"
# orders = ["rotate", "republish", "refresh"]
# witness_directory = "/mnt/auditor"

# How long a command on a CA waits for the second person, 1m to 24h:
# [approvals]
# expiry = "1h"

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

# A store (S3, HTTPS, a folder) to read from: on a first start, where the domain's cluster is and by which key it is known; while
# the cluster cannot be reached, foreign bundles. Believed from this TUF root on; `publication_key` pins the domain's own
# key as well. AWS credentials are found by the SDK's own chain, or by STS for a role. Needs trustfed[edge].
# [store]
# url = "s3://trust-bucket/prod"
# root_file = "/etc/trustfed/store-root.json"
# trust_domain = "prod-us-west"
# publication_key = "sha256:..."
# region = "eu-central-1"
# role_arn = "arn:aws:iam::123456789012:role/EdgeNode"
# role_session_name = "edge-7"

# How this node proves who it is: "join_token" (with --join), or "aws_iam", which needs [store] and no token.
# [attest]
# kind = "aws_iam"

[log]
level = "info"

# What local processes may make the agent hold.
[limits]
connections = 4096
connections_per_user = 1024
entries = 10000
# For how many entries SVIDs are held before anybody comes for them; recently used ones first.
prefetch = 1000
jwt_svids = 1000

# What this node holds is kept, sealed to it, so that it serves at once after a restart with everything unreachable.
[cache]
enabled = true
# "machine": a key in data_dir; "passphrase": a key made of what stands in passphrase_file.
sealing = "machine"
# passphrase_file = "/run/secrets/trustfed-cache"
# directory = "/var/lib/trustfed/agent/cache"

# Look whether a workload uses its newest SVID: an address of this node (another machine: remote = true), and whose it must be.
# [[probe]]
# address = "127.0.0.1:8443"
# spiffe_id = "spiffe://prod-us-west/ns/shop/sa/web"

# What Envoys call secrets (SDS on `socket`), besides spiffe://DOMAIN/PATH and spiffe://DOMAIN. These are Istio's and SPIRE's.
[sds]
default_svid_name = "default"
default_bundle_name = "ROOTCA"
default_all_bundles_name = "ALL"
"""

FEED = """\
# trustfed feed: one beside each istiod. Paths may be relative to this file.

trust_domain = "prod-us-west"
# The cluster's gRPC door: each address is tried in turn.
cluster = ["cluster.example:8443"]
# The Workload API of the agent on this node: the feed's identity comes from there. `trustfed feed allow ID` lets it pull routes.
workload_socket = "/run/trustfed/agent.sock"
# Which of its identities to use; else the first.
# spiffe_id = "spiffe://prod-us-west/ns/istio-system/sa/trustfed-feed"
# The last routes are kept here (0700): after a restart they are handed over before anybody is asked. One process at a time.
data_dir = "/var/lib/trustfed/feed"
# Where `trustfed feed status` looks (0600).
admin_socket = "/run/trustfed/feed-admin.sock"
# /live, /ready and /metrics over HTTP; off unless set:
# health = "127.0.0.1:8082"

# How routes reach istiod. meshConfig.configSources lists {address: "k8s://"} first, then one of these.
[output]
# For {address: "fs:///var/lib/trustfed/istio"}: a volume that the feed shares with istiod, read-only there. Survives everything.
directory = "/var/lib/trustfed/istio"
# istiod's xDS port, seen from here: after each start of istiod the files are announced once more, for it can lose what it read
# first. "" never does.
# istiod = "127.0.0.1:15012"
# For {address: "xds://127.0.0.1:9901"}: MCP-over-xDS, on loopback only.
# mcp = "127.0.0.1:9901"

[log]
level = "info"
"""
