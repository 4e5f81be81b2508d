{{- define "inroad.selector" -}}
app.kubernetes.io/name: inroad
app.kubernetes.io/component: traffic-manager
{{- end }}

{{- define "inroad.labels" -}}
{{ include "inroad.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "inroad.image" -}}
{{- $path := ternary (printf "%s/%s" .Values.image.registry .Values.image.name) .Values.image.name (ne .Values.image.registry "") -}}
{{ $path }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Whether there is a webhook that puts sidecars into pods: "true" or nothing. */}}
{{- define "inroad.injection" -}}
{{- if and .Values.agentInjection.enabled (not .Values.managerRbac.namespaced) }}true{{ end -}}
{{- end }}

{{/* What the manager reads of the namespaces that clients may map. */}}
{{- define "inroad.readRules" -}}
- apiGroups: [""]
  resources: [pods, services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end }}

{{- define "inroad.check" -}}
{{- if and .Values.managerRbac.namespaced (not .Values.namespaces) }}
{{- fail "managerRbac.namespaced needs a list of namespaces" }}
{{- end }}
{{- if and .Values.namespaces .Values.namespaceSelector }}
{{- fail "namespaces and namespaceSelector exclude each other" }}
{{- end }}
{{- if and (eq .Values.agentAccess "namespace") (eq (int .Values.agent.port) 0) }}
{{- fail "agentAccess namespace needs agent.port: there the tickets are fetched" }}
{{- end }}
{{- if and (eq .Values.podCIDRStrategy "environment") (not .Values.podCIDRs) }}
{{- fail "podCIDRStrategy environment needs podCIDRs" }}
{{- end }}
{{- end }}
