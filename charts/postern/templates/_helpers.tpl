{{/* Names are fixed: there is one installation in a cluster, and `postern check --cluster` looks for them. */}}

{{/* Labels of every object. Of a component, where one is given: (list $ "broker") */}}
{{- define "postern.labels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: postern
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{ include "postern.selectorLabels" . }}
{{- end }}

{{/* What selects the pods of a component. */}}
{{- define "postern.selectorLabels" -}}
app.kubernetes.io/name: postern
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- if gt (len .) 1 }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
{{- end }}

{{/* The image of the control plane. */}}
{{- define "postern.image" -}}
{{- with .Values.global.imageRegistry | default .Values.image.registry }}{{ . }}/{{ end -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The image of sidecars. */}}
{{- define "postern.sidecarImage" -}}
{{ .Values.injection.image | default (include "postern.image" .) }}
{{- end }}

{{/* Items as a list of texts in CEL. */}}
{{- define "postern.celList" -}}
{{- $items := list -}}
{{- range . -}}
{{- $items = append $items (squote .) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- end }}

{{/* The images that a sidecar may have, as a list in CEL. */}}
{{- define "postern.sidecarImages" -}}
{{ include "postern.celList" (prepend .Values.policies.previousImages (include "postern.sidecarImage" .) | uniq) }}
{{- end }}

{{/* The namespaces whose pods never get a sidecar, as JSON. */}}
{{- define "postern.excludedNamespaces" -}}
{{ concat (list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson }}
{{- end }}

{{/* The same, as a list in CEL. */}}
{{- define "postern.excludedNamespacesCel" -}}
{{ include "postern.celList" (include "postern.excludedNamespaces" . | fromJsonArray) }}
{{- end }}

{{/* A name of the Service of a component that a resolver knows without a search list: (list $ "postern-broker") */}}
{{- define "postern.host" -}}
{{- $root := index . 0 -}}
{{ index . 1 }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}
{{- end }}

{{/* Secrets to fetch the control plane's image with. */}}
{{- define "postern.imagePullSecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq -}}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What pods of the control plane may do on their node: nothing. OpenShift chooses the user itself. */}}
{{- define "postern.podSecurityContext" -}}
runAsNonRoot: true
{{- if not .Values.openshift.enabled }}
runAsUser: 64321
runAsGroup: 64321
fsGroup: 64321
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "postern.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where the webhook's certificate comes from, if not from the controller itself: the name of a Secret. */}}
{{- define "postern.webhookTlsSecret" -}}
{{- if .Values.certManager.enabled -}}
postern-webhook-tls
{{- else -}}
{{ .Values.webhook.tls.existingSecret }}
{{- end -}}
{{- end }}
