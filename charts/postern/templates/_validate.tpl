{{/* Combinations that the schema cannot refuse. Each sentence names the fix. */}}
{{- define "postern.validate" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository is not set: name the repository that you pushed Postern's image to, such as --set image.repository=registry.example/postern" }}
{{- end }}
{{- if and .Values.certManager.enabled .Values.webhook.tls.existingSecret }}
{{- fail "certManager.enabled and webhook.tls.existingSecret both give the webhook a certificate: set one of them" }}
{{- end }}
{{- if and .Values.controller.hostNetwork (eq (int .Values.controller.port) 10250) }}
{{- fail "controller.hostNetwork with controller.port 10250 collides with the kubelet: set controller.port to another, such as 10260" }}
{{- end }}
{{- if and .Values.broker.clusterWide .Values.broker.namespaces }}
{{- fail "broker.clusterWide grants every namespace already: leave broker.namespaces empty, or set broker.clusterWide to false" }}
{{- end }}
{{- if ge (int .Values.controller.lingerSeconds) (int .Values.controller.shutdownGraceSeconds) }}
{{- fail "controller.lingerSeconds is not less than controller.shutdownGraceSeconds: the last calls could not be answered; raise controller.shutdownGraceSeconds" }}
{{- end }}
{{- end }}
