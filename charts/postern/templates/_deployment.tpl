{{/*
A Deployment of the control plane, and its PodDisruptionBudget.

The dictionary: root; component, its values at root.Values; args; port (name and number); tlsSecret and extraRoots, which
may be empty.
*/}}
{{- define "postern.deployment" -}}
{{- $root := .root }}
{{- $values := index $root.Values .component }}
{{- $name := printf "postern-%s" .component }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "postern.labels" (list $root .component) | nindent 4 }}
spec:
  replicas: {{ $values.replicas }}
  revisionHistoryLimit: 3
  # None of the old is missed before a new one is ready.
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels:
      {{- include "postern.selectorLabels" (list $root .component) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with $root.Values.commonLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- include "postern.selectorLabels" (list $root .component) | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .component }}
        {{- with .extraRoots }}
        # They are read at the start.
        checksum/extra-roots: {{ sha256sum . }}
        {{- end }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      # Mounted below, into this container alone.
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with include "postern.imagePullSecrets" $root }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- if $values.hostNetwork }}
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      # Longer than the process takes to end by itself.
      terminationGracePeriodSeconds: {{ add $values.shutdownGraceSeconds 10 }}
      securityContext:
        {{- include "postern.podSecurityContext" $root | nindent 8 }}
      nodeSelector:
        kubernetes.io/os: linux
        {{- with $values.nodeSelector }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
      {{- range $key, $unsatisfiable := dict "kubernetes.io/hostname" $values.spread.nodes "topology.kubernetes.io/zone" $values.spread.zones }}
      - topologyKey: {{ $key }}
        maxSkew: 1
        whenUnsatisfiable: {{ $unsatisfiable }}
        labelSelector:
          matchLabels:
            {{- include "postern.selectorLabels" (list $root $.component) | nindent 12 }}
        # A new ReplicaSet is spread for itself, not around the old one's pods.
        matchLabelKeys: [pod-template-hash]
      {{- end }}
      containers:
      - name: {{ .component }}
        image: {{ include "postern.image" $root }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        args:
        - {{ .component }}
        {{- range concat .args $values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
        env:
        # Who holds a Lease.
        - name: POD_NAME
          valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        ports:
        - {name: {{ .port.name }}, containerPort: {{ .port.number }}, protocol: TCP}
        - {name: metrics, containerPort: 15190, protocol: TCP}
        startupProbe:
          httpGet: {path: /started, port: metrics}
          periodSeconds: 1
          timeoutSeconds: 2
          failureThreshold: 120
        readinessProbe:
          httpGet: {path: /ready, port: metrics}
          periodSeconds: 5
          timeoutSeconds: 2
          failureThreshold: 2
        livenessProbe:
          httpGet: {path: /live, port: metrics}
          periodSeconds: 10
          timeoutSeconds: 2
          failureThreshold: 6
        resources:
          {{- toYaml $values.resources | nindent 10 }}
        securityContext:
          {{- include "postern.containerSecurityContext" $root | nindent 10 }}
        terminationMessagePolicy: FallbackToLogsOnError
        volumeMounts:
        - {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
        {{- if .tlsSecret }}
        - {name: tls, mountPath: /var/run/secrets/postern-tls, readOnly: true}
        {{- end }}
        {{- if .extraRoots }}
        - {name: extra-roots, mountPath: /etc/postern, readOnly: true}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
      {{- include "postern.apiToken" . | nindent 6 }}
      {{- if .tlsSecret }}
      - name: tls
        secret: {secretName: {{ .tlsSecret }}, defaultMode: 0440}
      {{- end }}
      {{- if .extraRoots }}
      - name: extra-roots
        configMap: {name: postern-extra-roots, defaultMode: 0444}
      {{- end }}
      {{- with $values.extraVolumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- if gt (int $values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "postern.labels" (list $root .component) | nindent 4 }}
spec:
  maxUnavailable: 1
  # A pod that is not ready anyway does not keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "postern.selectorLabels" (list $root .component) | nindent 6 }}
{{- end }}
{{- end }}

{{/* What the kubelet would mount by itself: the right to ask the API server. */}}
{{- define "postern.apiToken" -}}
- name: api-token
  projected:
    defaultMode: 0444
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap:
        name: kube-root-ca.crt
        items:
        - {key: ca.crt, path: ca.crt}
    - downwardAPI:
        items:
        - path: namespace
          fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}
{{- end }}
