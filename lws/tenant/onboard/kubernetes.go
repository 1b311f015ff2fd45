package onboard

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Where a node in Kubernetes has its files: a volume of its own, and the secret.
const (
	KubernetesDir     = "/lnd"
	KubernetesSecrets = "/secrets"
	// KubernetesRPC and KubernetesPeers are where it listens in its pod.
	KubernetesRPC   = "0.0.0.0:10009"
	KubernetesPeers = "0.0.0.0:9735"
)

// Files of a node's certificate, which in Kubernetes is made beforehand, so that whoever
// makes the wallet knows it.
const (
	FileTLSCert = "tls.cert"
	FileTLSKey  = "tls.key"
)

// Manifests are a node's in Kubernetes. They are written and not applied.
type Manifests struct {
	Tenant string
	// Namespace is where it runs.
	Namespace string
	// Files are the content of the secret.
	Files map[string][]byte
}

// KubernetesHosts are the names by which a node is reached in its cluster.
func KubernetesHosts(tenant, namespace string) []string {
	name := "lnd-" + tenant
	return []string{name, name + "." + namespace, name + "." + namespace + ".svc", name + "." + namespace + ".svc.cluster.local"}
}

// checkLabel is for names of Kubernetes (RFC 1123).
func checkLabel(name string) error {
	ok := name != "" && len(name) <= 63 && name[0] != '-' && !strings.HasSuffix(name, "-")
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return errkind.Newf(errkind.Invalid, "%q is no name in Kubernetes: lower-case letters, digits and hyphens.", name)
	}
	return nil
}

// Render writes the manifests.
//
// A StatefulSet with a volume that one pod mounts never runs two pods of one name: two
// lnds with one seed would lose their channels' money. A Deployment may, while a machine
// does not answer.
func (m Manifests) Render() (string, error) {
	if err := checkLabel(m.Namespace); err != nil {
		return "", err
	}
	if err := checkLabel("lnd-" + m.Tenant); err != nil {
		return "", err
	}
	var data strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		fmt.Fprintf(&data, "  %s: %s\n", name, base64.StdEncoding.EncodeToString(m.Files[name]))
	}
	port := func(listen string) string {
		_, port, _ := net.SplitHostPort(listen)
		return port
	}
	return strings.NewReplacer(
		// NAMESPACE before NAME, which it begins with.
		"NAMESPACE", m.Namespace, "NAME", "lnd-"+m.Tenant, "TENANT", m.Tenant, "DATA\n", data.String(), "DIR", KubernetesDir, "SECRETS", KubernetesSecrets,
		"RPCPORT", port(KubernetesRPC), "PEERPORT", port(KubernetesPeers), "CONF", FileConf,
	).Replace(manifests), nil
}

const manifests = `# The watch-only node of the tenant TENANT: its keys are at the tenant's signer.
# Written by sluicectl tenant add, and not applied:  kubectl apply -f THIS-FILE
apiVersion: v1
kind: Secret
metadata:
  name: NAME
  namespace: NAMESPACE
type: Opaque
data:
DATA
---
apiVersion: v1
kind: Service
metadata:
  name: NAME
  namespace: NAMESPACE
spec:
  selector: {app: NAME}
  # The wallet is made while lnd does not serve yet.
  publishNotReadyAddresses: true
  ports:
  - {name: rpc, port: RPCPORT}
  - {name: peers, port: PEERPORT}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: NAME
  namespace: NAMESPACE
spec:
  serviceName: NAME
  # Never more: two nodes with one seed lose their channels' money.
  replicas: 1
  selector:
    matchLabels: {app: NAME}
  template:
    metadata:
      labels: {app: NAME}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 120
      securityContext:
        runAsNonRoot: true
        runAsUser: 1000
        runAsGroup: 1000
        fsGroup: 1000
        seccompProfile: {type: RuntimeDefault}
      containers:
      - name: lnd
        image: docker.io/lightninglabs/lnd:v0.21.2-beta
        command: ["lnd", "--lnddir=DIR", "--configfile=SECRETS/CONF"]
        ports:
        - {name: rpc, containerPort: RPCPORT}
        - {name: peers, containerPort: PEERPORT}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL]}
        volumeMounts:
        - {name: data, mountPath: DIR}
        - {name: secrets, mountPath: SECRETS, readOnly: true}
      volumes:
      - name: secrets
        secret: {secretName: NAME, defaultMode: 0440}
  volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOncePod]
      resources:
        requests: {storage: 20Gi}
---
# Peers may come from anywhere; the RPC is for the operator's own pods, by this label.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: NAME
  namespace: NAMESPACE
spec:
  podSelector:
    matchLabels: {app: NAME}
  policyTypes: [Ingress]
  ingress:
  - ports: [{port: PEERPORT}]
  - ports: [{port: RPCPORT}]
    from:
    - podSelector:
        matchLabels: {sluice-operator: "true"}
`
