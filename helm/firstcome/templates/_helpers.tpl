{{/* What the chart knows of each service: its name, its ports, what it connects to, how it is rolled. The one list of services. */}}
{{- define "firstcome.services" -}}
apiGateway: {name: api-gateway, program: api-gateway, ports: {http: 8080, admin: 8081, ops: 9090}, needs: [kafka, postgres, redis, auth, keys], consumer: false}
stockConsumer: {name: stock-consumer, program: stock-consumer, ports: {ops: 9090}, needs: [kafka, postgres, redis], consumer: true}
dbWriter: {name: db-writer, program: db-writer, ports: {ops: 9090}, needs: [kafka, postgres, keys], consumer: true}
notifier: {name: notifier, program: notifier, ports: {http: 8080, ops: 9090}, needs: [kafka, postgres, redis, auth, keys], consumer: false}
reconciler: {name: reconciler, program: reconciler, ports: {ops: 9090}, needs: [kafka, postgres, redis], consumer: true, single: true, scratch: true}
{{- end }}

{{- define "firstcome.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "firstcome.fullname" -}}
{{- $name := include "firstcome.name" . }}
{{- $release := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $release | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Labels that never change: what selectors look for. Takes root and name. */}}
{{- define "firstcome.selector" -}}
app.kubernetes.io/name: {{ include "firstcome.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Labels of pods: not the chart's version, or a chart that says the same in other words would replace every pod. Takes root and name. */}}
{{- define "firstcome.podLabels" -}}
{{ include "firstcome.selector" . }}
app.kubernetes.io/part-of: firstcome
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | trunc 63 | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of every object. Takes root and name. */}}
{{- define "firstcome.labels" -}}
{{ include "firstcome.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Name, namespace and labels. Takes root and name (the component); suffix where a component has several objects of a kind. */}}
{{- define "firstcome.metadata" -}}
name: {{ include "firstcome.fullname" .root }}-{{ .name }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "firstcome.labels" . | nindent 2 }}
{{- end }}

{{- define "firstcome.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* What the restricted Pod Security Standard asks for. */}}
{{- define "firstcome.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "firstcome.containerSecurity" -}}
image: {{ include "firstcome.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Fewest replicas of a service; two where something outside the chart sets their number. Takes its values. */}}
{{- define "firstcome.replicasMin" -}}
{{- $scaling := .autoscaling | default dict }}
{{- $fixed := kindIs "invalid" .replicas | ternary 2 .replicas }}
{{- ternary $scaling.minReplicas $fixed ($scaling.enabled | default false) | int }}
{{- end }}
