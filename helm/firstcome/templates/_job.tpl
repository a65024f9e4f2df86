{{/* What jobs of couponctl have in common. */}}

{{/* The pod of a job. Takes root, name, arguments, resources; key, needs and file where it reads a configuration; env where it talks to the API;
signing where it makes tokens with a private key; scratch where it writes files. */}}
{{- define "firstcome.jobPod" -}}
metadata:
  labels:
    {{- include "firstcome.podLabels" . | nindent 4 }}
    firstcome/job: "true"
  {{- if .file }}
  annotations:
    checksum/config: {{ include "firstcome.toolConfig" . | sha256sum }}
  {{- end }}
spec:
  serviceAccountName: {{ include "firstcome.fullname" .root }}-jobs
  {{- include "firstcome.podSecurity" .root | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: {{ .name }}
      {{- include "firstcome.containerSecurity" .root | nindent 6 }}
      command: [/usr/local/bin/couponctl]
      args:
        {{- toYaml .arguments | nindent 8 }}
        {{- with .file }}
        - --config
        - /etc/firstcome/config/{{ . }}
        {{- end }}
      {{- with .env }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      {{- if or .file .signing .scratch }}
      volumeMounts:
        {{- if .file }}
        {{- include "firstcome.mounts" . | nindent 8 }}
        {{- end }}
        {{- if .signing }}
        - {name: signing, mountPath: /etc/firstcome/signing, readOnly: true}
        {{- end }}
        {{- if .scratch }}
        - {name: scratch, mountPath: /tmp}
        {{- end }}
  volumes:
    {{- if .file }}
    {{- merge (dict "configMap" (printf "%s-jobs" (include "firstcome.fullname" .root))) . | include "firstcome.volumes" | nindent 4 }}
    {{- end }}
    {{- with .signing }}
    - name: signing
      projected:
        sources:
          - secret:
              name: {{ .existingSecret }}
              items: [{key: {{ .key | quote }}, path: private.pem}]
    {{- end }}
    {{- if .scratch }}
    - {name: scratch, emptyDir: {}}
    {{- end }}
      {{- end }}
{{- end }}

{{/* A plain Job named by its spec's hash: another spec is another Job, the same one is left alone. No hook: it uses the release's own objects, and nothing
waits for it but pods at /startupz. Takes what jobPod takes, and backoffLimit. */}}
{{- define "firstcome.job" -}}
{{- $spec := include "firstcome.jobSpec" . }}
apiVersion: batch/v1
kind: Job
metadata:
  {{- dict "root" .root "name" .name "suffix" (sha256sum $spec | trunc 10) | include "firstcome.metadata" | nindent 2 }}
spec:
  {{- $spec | nindent 2 }}
{{- end }}

{{- define "firstcome.jobSpec" -}}
backoffLimit: {{ .backoffLimit }}
podFailurePolicy:
  rules:
    # Wrong arguments, configuration, topics or schema: trying again would say the same.
    - action: FailJob
      onExitCodes: {containerName: {{ .name }}, operator: In, values: [2, 3]}
    # Drained from a node: not its fault.
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
template:
  {{- include "firstcome.jobPod" . | nindent 2 }}
{{- end }}

{{/* Where the API is. Takes root. */}}
{{- define "firstcome.urlsEnv" -}}
{{- $name := include "firstcome.fullname" .root -}}
- {name: API_URL, value: {{ printf "http://%s-api-gateway" $name | quote }}}
- {name: ADMIN_URL, value: {{ printf "http://%s-api-gateway-admin" $name | quote }}}
- {name: NOTIFIER_URL, value: {{ printf "http://%s-notifier" $name | quote }}}
{{- end }}

{{/* What tokens have to say. Takes root. */}}
{{- define "firstcome.issuerEnv" -}}
{{- with .root.Values.auth -}}
- {name: JWT_ISSUER, value: {{ .issuer | quote }}}
- {name: JWT_AUDIENCE, value: {{ include "firstcome.words" .audience | fromJsonArray | first | quote }}}
- {name: ADMIN_JWT_AUDIENCE, value: {{ include "firstcome.words" .adminAudience | fromJsonArray | first | quote }}}
{{- end }}
{{- end }}

{{/* What a job needs to make tokens, as arguments of jobPod: env, and signing where that is a private key; nothing where none can be made. Takes root. */}}
{{- define "firstcome.mint" -}}
{{- with .root.Values.auth }}
{{- if or .hs256.existingSecret .signingKey.existingSecret }}
env: |-
  {{- include "firstcome.urlsEnv" $ | nindent 2 }}
  {{- include "firstcome.issuerEnv" $ | nindent 2 }}
  {{- if .hs256.existingSecret }}
  - {name: JWT_SECRET, valueFrom: {secretKeyRef: {name: {{ .hs256.existingSecret }}, key: {{ .hs256.key | quote }}}}}
  {{- else }}
  - {name: JWT_KEY_FILE, value: /etc/firstcome/signing/private.pem}
  - {name: JWT_KEY_ID, value: {{ .signingKey.id | quote }}}
signing: {{ toJson .signingKey }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The same for an operator: their token where there is one. Takes root. */}}
{{- define "firstcome.operator" -}}
{{- with .root.Values.retire }}
{{- if and .tokenSecret (not $.root.Values.auth.hs256.existingSecret) }}
env: |-
  {{- include "firstcome.urlsEnv" $ | nindent 2 }}
  - {name: ADMIN_TOKEN, valueFrom: {secretKeyRef: {name: {{ .tokenSecret }}, key: {{ .tokenKey | quote }}}}}
{{- else }}
{{- include "firstcome.mint" $ }}
{{- end }}
{{- end }}
{{- end }}

{{/* The jobs that read a configuration, as arguments of jobPod. Takes root. */}}
{{- define "firstcome.toolJobs" -}}
topics: {name: topics, key: topics, needs: [kafka], file: topics.json, arguments: [topics, apply]}
migrate: {name: migrate, key: migrate, needs: [postgres], file: migrate.json, arguments: [migrate]}
{{- with .Values.retention }}
retention: {name: retention, key: retention, needs: [kafka, postgres], file: retention.json, arguments: [retention, apply, --claims-days, {{ .claimsDays | quote }}, --coupons-days, {{ .couponsDays | quote }}]}
{{- end }}
operator: {name: operator, key: operator, needs: [kafka, postgres, redis, keys], file: operator.json, arguments: [idle], scratch: true}
{{- end }}
