{{/* The objects of a service: one definition for each kind, drawn for all of them. Each takes root and key. */}}

{{- define "firstcome.deployment" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
{{- $values := index .root.Values .key }}
{{- $of := dict "root" .root "name" $facts.name "key" .key "needs" $facts.needs "configMap" (printf "%s-%s" (include "firstcome.fullname" .root) $facts.name) }}
{{- $scaled := dig "autoscaling" "enabled" false $values }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "firstcome.metadata" $of | nindent 2 }}
spec:
  {{- if $facts.single }}
  replicas: 1
  {{- else if not (or $scaled (kindIs "invalid" $values.replicas)) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  progressDeadlineSeconds: 900
  strategy:
    type: RollingUpdate
    rollingUpdate:
      {{- if $facts.consumer }}
      # One goes before the next comes: two at once for one partition would only hand it to and fro.
      maxSurge: 0
      maxUnavailable: 1
      {{- else }}
      maxSurge: 25%
      maxUnavailable: 0
      {{- end }}
  selector:
    matchLabels:
      {{- include "firstcome.selector" $of | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "firstcome.podLabels" $of | nindent 8 }}
      annotations:
        # Configuration is read at boot: another one is another pod.
        checksum/config: {{ include "firstcome.config" . | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "firstcome.fullname" .root }}-{{ $facts.name }}
      {{- include "firstcome.podSecurity" .root | nindent 6 }}
      terminationGracePeriodSeconds: {{ $values.shutdown.graceSeconds }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "firstcome.affinity" $of | fromYaml | merge (deepCopy $values.affinity) }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if dig "spread" "enabled" false $values }}
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "firstcome.selector" $of | nindent 14 }}
          matchLabelKeys: [pod-template-hash]
      {{- end }}
      containers:
        - name: {{ $facts.name }}
          {{- include "firstcome.containerSecurity" .root | nindent 10 }}
          command: [/usr/local/bin/{{ $facts.program }}]
          args: [--config, /etc/firstcome/config/config.json]
          ports:
            {{- range $port, $number := $facts.ports }}
            - {name: {{ $port }}, containerPort: {{ $number }}}
            {{- end }}
          # Configuration and topics are right; waits five minutes for what is out of reach.
          startupProbe:
            httpGet: {path: /startupz, port: ops}
            periodSeconds: 5
            failureThreshold: 60
            timeoutSeconds: 2
          # Every loop turned. No outage, lag or halt fails it: a restart would heal none of them.
          livenessProbe:
            httpGet: {path: /livez, port: ops}
            periodSeconds: 10
            failureThreshold: 3
            timeoutSeconds: 2
          readinessProbe:
            httpGet: {path: /readyz, port: ops}
            periodSeconds: 5
            failureThreshold: 2
            timeoutSeconds: 2
          {{- if $values.shutdown.preStopSeconds }}
          lifecycle:
            preStop:
              sleep: {seconds: {{ $values.shutdown.preStopSeconds }}}
          {{- end }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            {{- include "firstcome.mounts" $of | nindent 12 }}
            {{- if $facts.scratch }}
            - {name: scratch, mountPath: /tmp}
            {{- end }}
      volumes:
        {{- include "firstcome.volumes" $of | nindent 8 }}
        {{- if $facts.scratch }}
        - {name: scratch, emptyDir: {}}
        {{- end }}
{{- end }}

{{/* Over zones, where nodes have them. No second spread constraint: a node without one of the labels counts for none of them, and on a cluster without zones nothing was spread
over nodes either. Takes root, key and name. */}}
{{- define "firstcome.affinity" -}}
{{- if dig "spread" "enabled" false (index .root.Values .key) }}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: topology.kubernetes.io/zone
        labelSelector:
          matchLabels:
            {{- include "firstcome.selector" . | nindent 12 }}
{{- end }}
{{- end }}

{{- define "firstcome.configmap" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- dict "root" .root "name" $facts.name | include "firstcome.metadata" | nindent 2 }}
data:
  config.json: |
    {{- include "firstcome.config" . | fromJson | toPrettyJson | nindent 4 }}
{{- end }}

{{- define "firstcome.serviceaccount" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- dict "root" .root "name" $facts.name | include "firstcome.metadata" | nindent 2 }}
automountServiceAccountToken: false
{{- end }}

{{/* The users' listener, and the operators' one under a name of its own: whoever exposes the first does not expose the second. */}}
{{- define "firstcome.service" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
{{- $values := index .root.Values .key }}
{{- $of := dict "root" .root "name" $facts.name }}
apiVersion: v1
kind: Service
metadata:
  {{- include "firstcome.metadata" $of | nindent 2 }}
  {{- with $values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $values.service.type }}
  selector:
    {{- include "firstcome.selector" $of | nindent 4 }}
  ports:
    - {name: http, port: 80, targetPort: http, appProtocol: http}
{{- if $facts.ports.admin }}
---
apiVersion: v1
kind: Service
metadata:
  {{- dict "root" .root "name" $facts.name "suffix" "admin" | include "firstcome.metadata" | nindent 2 }}
spec:
  type: ClusterIP
  selector:
    {{- include "firstcome.selector" $of | nindent 4 }}
  ports:
    - {name: admin, port: 80, targetPort: admin, appProtocol: http}
{{- end }}
{{- end }}

{{- define "firstcome.pdb" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
{{- $values := index .root.Values .key }}
{{- $of := dict "root" .root "name" $facts.name }}
{{- if and $values.pdb.enabled (ge (include "firstcome.replicasMin" $values | int) 2) }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "firstcome.metadata" $of | nindent 2 }}
spec:
  maxUnavailable: {{ $values.pdb.maxUnavailable }}
  # A pod that does not work protects nobody: it must not block a drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "firstcome.selector" $of | nindent 6 }}
{{- end }}
{{- end }}

{{- define "firstcome.hpa" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
{{- $values := index .root.Values .key }}
{{- $of := dict "root" .root "name" $facts.name }}
{{- with $values.autoscaling }}
{{- if .enabled }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "firstcome.metadata" $of | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "firstcome.fullname" $.root }}-{{ $facts.name }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ .cpuPercent }}}}
    {{- with .memoryPercent }}
    - type: Resource
      resource: {name: memory, target: {type: Utilization, averageUtilization: {{ . }}}}
    {{- end }}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 0
      policies:
        - {type: Percent, value: 100, periodSeconds: 15}
    scaleDown:
      stabilizationWindowSeconds: 600
      policies:
        - {type: Pods, value: 1, periodSeconds: 60}
{{- end }}
{{- end }}
{{- end }}

{{- define "firstcome.networkpolicy" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
{{- $of := dict "root" .root "name" $facts.name }}
{{- with .root.Values.networkPolicy }}
{{- if .enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "firstcome.metadata" $of | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "firstcome.selector" $of | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: ops, protocol: TCP}]
      {{- with .opsFrom }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- if $facts.ports.http }}
    - ports: [{port: http, protocol: TCP}]
      {{- with .usersFrom }}
      from:
        {{- toYaml . | nindent 8 }}
        {{- include "firstcome.jobPeer" $.root | nindent 8 }}
      {{- end }}
    {{- end }}
    {{- if $facts.ports.admin }}
    - ports: [{port: admin, protocol: TCP}]
      from:
        {{- include "firstcome.jobPeer" $.root | nindent 8 }}
        {{- with .adminFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- end }}
  egress:
    {{- $needs := $facts.needs }}
    {{- if and (has "auth" $needs) (eq (include "firstcome.issuerIsAsked" $.root) "true") }}{{ $needs = append $needs "issuer" }}{{ end }}
    {{- dict "policy" . "needs" $needs | include "firstcome.egress" | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{/* "true" where keys of tokens come from an address. Takes root. */}}
{{- define "firstcome.issuerIsAsked" -}}
{{- with .Values.auth }}{{ not (or .hs256.existingSecret .jwks.existingSecret) }}{{ end }}
{{- end }}

{{/* This release's own jobs, as a peer. */}}
{{- define "firstcome.jobPeer" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: {{ include "firstcome.name" . }}
      app.kubernetes.io/instance: {{ .Release.Name }}
      firstcome/job: "true"
{{- end }}

{{/* Rules for what a program connects to. Takes policy and needs. */}}
{{- define "firstcome.egress" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  {{- with .policy.dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- range $peer := list "kafka" "postgres" "redis" "issuer" }}
{{- if has $peer $.needs }}
- ports:
    {{- range index $.policy (printf "%sPorts" $peer) }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with index $.policy (printf "%sTo" $peer) }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
