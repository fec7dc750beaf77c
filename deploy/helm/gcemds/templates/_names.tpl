{{- define "gcemds.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* The name of what has a namespace: that of the release, with "gcemds" in it. */ -}}
{{- define "gcemds.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "gcemds.name" . -}}
{{- contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The name of what has none: releases of one name in two namespaces do not meet. */ -}}
{{- define "gcemds.clustername" -}}
{{- printf "%s.%s" (include "gcemds.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "gcemds.account" -}}
{{- default (include "gcemds.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "gcemds.selector" -}}
app.kubernetes.io/name: {{ include "gcemds.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gcemds.labels" -}}
{{ include "gcemds.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "gcemds.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Where the server listens. The address of a node is in the variable NODE_IP. */ -}}
{{- define "gcemds.address" -}}
{{- with .Values.intercept -}}
{{- if .remove -}}
127.0.0.1:0
{{- else if eq .mode "loopback" -}}
169.254.169.254:80
{{- else if eq .mode "environment" -}}
:{{ .port }}
{{- else if .nodeAddress -}}
$(NODE_IP):{{ .port }}
{{- else -}}
169.254.169.252:{{ .port }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What the server needs besides nothing, as a list in JSON. Who needs any must be root: Kubernetes gives the
       capabilities of a container to nobody else. */ -}}
{{- define "gcemds.capabilities" -}}
{{- $list := list -}}
{{- $port := splitList ":" (include "gcemds.address" .) | last | int -}}
{{- if and (gt $port 0) (lt $port 1024) -}}{{- $list = append $list "NET_BIND_SERVICE" -}}{{- end -}}
{{- if or (include "gcemds.attests" .) (include "gcemds.hardened" .) -}}{{- $list = append $list "DAC_READ_SEARCH" -}}{{- end -}}
{{- if include "gcemds.callers" . -}}{{- $list = append $list "BPF" -}}{{- end -}}
{{- if include "gcemds.processes" . -}}{{- $list = append $list "SYS_PTRACE" -}}{{- end -}}
{{- toJson $list -}}
{{- end -}}

{{- /* Where else: at the address that fd20:ce::254 leads to, or "". */ -}}
{{- define "gcemds.address6" -}}
{{- with .Values.intercept -}}
{{- if and .ipv6 (not .remove) (eq .mode "loopback") -}}
[fd20:ce::254]:80
{{- else if and .ipv6 (not .remove) (not .nodeAddress) (has .mode (list "auto" "nftables")) -}}
[fd20:ce::252]:{{ .port }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Whether NODE_IP has to be known. */ -}}
{{- define "gcemds.atnode" -}}
{{- if hasPrefix "$" (include "gcemds.address" .) -}}yes{{- end -}}
{{- end -}}

{{- /* Whether the server reads what eBPF notes. Callers of the host's network the kernel knows without it. */ -}}
{{- define "gcemds.callers" -}}
{{- if eq .Values.gke.attest "all" -}}
{{- if ne .Values.intercept.mode "ebpf" -}}
{{- fail "gke.attest: all takes intercept.mode: ebpf: nothing else says which Pod a caller is of that has a network of its own, so all of those would get 403" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}

{{- /* Whether the server looks at the processes of the node. */ -}}
{{- define "gcemds.processes" -}}
{{- if and .Values.hostPID (include "gcemds.attests" .) -}}yes{{- end -}}
{{- end -}}

{{- define "gcemds.attests" -}}
{{- if ne .Values.gke.attest "none" -}}yes{{- end -}}
{{- end -}}

{{- /* An empty section is one too: it has defaults. */ -}}
{{- define "gcemds.hardened" -}}
{{- if kindIs "map" .Values.gke.projected -}}yes{{- end -}}
{{- end -}}

{{- define "gcemds.pods" -}}
{{- default "/var/lib/kubelet/pods" .Values.gke.projected.dir -}}
{{- end -}}

{{- /* The audiences of the cluster's tokens, as a list in JSON. */ -}}
{{- define "gcemds.audiences" -}}
{{- $list := list -}}
{{- range prepend (values (.Values.gke.providers | default dict)) .Values.gke.provider -}}
{{- if .audience -}}
{{- $list = append $list .audience -}}
{{- else if .membership -}}
{{- $list = append $list (default (printf "%s.svc.id.goog" $.Values.gke.project_id) .pool) -}}
{{- else -}}
{{- $list = append $list (printf "//iam.googleapis.com/%s" (.workload_identity | trimPrefix "https:" | trimPrefix "//iam.googleapis.com/")) -}}
{{- end -}}
{{- end -}}
{{- toJson ($list | uniq | sortAlpha) -}}
{{- end -}}

{{- /* The configuration file. */ -}}
{{- define "gcemds.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $admin := dict "socket" "/run/gcemds/admin.sock" -}}
{{- if .Values.metrics.listen -}}
{{- $admin = merge $admin (dict "http" .Values.metrics.listen "reuse_port" true) -}}
{{- end -}}
{{- if not (include "gcemds.atnode" .) -}}
{{- $listen := dict "tcp" (include "gcemds.address" .) "allow_remote" true "reuse_port" true -}}
{{- $all := dict "main" $listen -}}
{{- with include "gcemds.address6" . -}}
{{- $all = merge $all (dict "ipv6" (merge (dict "tcp" . "optional" true) $listen)) -}}
{{- end -}}
{{- $config = merge (dict "listen" $all) $config -}}
{{- end -}}
{{- toYaml (merge (dict "gke" .Values.gke "admin" $admin) $config) -}}
{{- end -}}
