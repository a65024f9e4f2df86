{{/* Where a program finds what it connects to: sections of its configuration, in its own words, and the secrets behind them. */}}

{{- define "firstcome.secretsFolder" -}}/etc/firstcome/secrets{{- end }}

{{/* The keys of the files behind a connection's TLS, as JSON; none without a secret. Takes tls (of the values), store and prefix (of the keys). */}}
{{- define "firstcome.tlsFiles" -}}
{{- $files := dict }}
{{- if and .tls.enabled .tls.existingSecret }}
  {{- range $key, $file := dict "ca_file" .tls.caKey "certificate_file" .tls.certKey "key_file" .tls.keyKey }}
  {{- if $file }}{{ $_ := set $files (print $.prefix $key) (printf "%s/%s-tls/%s" (include "firstcome.secretsFolder" $) $.store $file) }}{{ end }}
  {{- end }}
{{- end }}
{{- toJson $files }}
{{- end }}

{{/* The secret behind them, as a source of a volume. Takes tls and store. */}}
{{- define "firstcome.tlsSource" -}}
{{- if and .tls.enabled .tls.existingSecret }}
- secret:
    name: {{ .tls.existingSecret }}
    items:
      {{- range list .tls.caKey .tls.certKey .tls.keyKey }}
      {{- with . }}
      - {key: {{ . | quote }}, path: {{ printf "%s-tls/%s" $.store . | quote }}}
      {{- end }}
      {{- end }}
{{- end }}
{{- end }}

{{/* The words of a text with commas in between, as JSON. */}}
{{- define "firstcome.words" -}}
{{- $words := list }}
{{- range splitList "," . }}{{ $words = append $words (trim .) }}{{ end }}
{{- compact $words | toJson }}
{{- end }}

{{/* The sections of what a program needs, as JSON. Takes root, key (of the service) and needs. */}}
{{- define "firstcome.connections" -}}
{{- $values := .root.Values }}
{{- $folder := include "firstcome.secretsFolder" . }}
{{- $out := dict "profile" $values.profile }}
{{- if has "kafka" .needs }}
  {{- with $values.kafka }}
  {{- $security := ternary "ssl" "plaintext" .tls.enabled }}
  {{- if .sasl.mechanism }}{{ $security = printf "sasl_%s" $security }}{{ end }}
  {{- $kafka := dict "bootstrap_servers" .bootstrapServers "topic_prefix" .topicPrefix "group_prefix" .groupPrefix "partitions" .partitions "replication_factor" .replicationFactor "min_insync_replicas" .minInsyncReplicas "security_protocol" $security "allow_plaintext" .allowPlaintext }}
  {{- $kafka = merge $kafka (include "firstcome.tlsFiles" (dict "tls" .tls "store" "kafka" "prefix" "ssl_") | fromJson) }}
  {{- if .sasl.mechanism }}
    {{- $_ := merge $kafka (dict "sasl_mechanism" .sasl.mechanism "sasl_username" .sasl.username "sasl_password_file" (printf "%s/kafka-sasl/password" $folder)) }}
  {{- end }}
  {{- $_ := set $out "kafka" $kafka }}
  {{- end }}
{{- end }}
{{- if has "postgres" .needs }}
  {{- $postgres := dict "url_file" (printf "%s/postgres/url" $folder) "allow_plaintext" $values.postgres.allowPlaintext }}
  {{- if $values.postgres.tls.enabled }}
    {{- $files := dict "tls" $values.postgres.tls "store" "postgres" "prefix" "" | include "firstcome.tlsFiles" | fromJson }}
    {{- $_ := set $postgres "tls" (set $files "enabled" true) }}
  {{- end }}
  {{- $_ := set $out "postgres" $postgres }}
{{- end }}
{{- if has "redis" .needs }}
  {{- $redis := dict "url_file" (printf "%s/redis/url" $folder) "allow_plaintext" $values.redis.allowPlaintext "key_prefix" $values.redis.keyPrefix }}
  {{- with dict "tls" $values.redis.tls "store" "redis" "prefix" "" | include "firstcome.tlsFiles" | fromJson }}{{ $_ := set $redis "tls" . }}{{ end }}
  {{- $_ := set $out "redis" $redis }}
{{- end }}
{{- if has "auth" .needs }}
  {{- with $values.auth }}
  {{- $auth := dict "issuer" .issuer "audience" (include "firstcome.words" .audience | fromJsonArray) "leeway_s" .leewaySeconds }}
  {{- if eq $.key "apiGateway" }}{{ $_ := set $auth "admin" (dict "audience" (include "firstcome.words" .adminAudience | fromJsonArray)) }}{{ end }}
  {{- if .hs256.existingSecret }}{{ $_ := set $auth "hs256_secret_file" (printf "%s/auth/hs256" $folder) }}
  {{- else if .jwks.existingSecret }}{{ $_ := set $auth "jwks_file" (printf "%s/auth/jwks.json" $folder) }}
  {{- else if .jwks.url }}{{ $_ := set $auth "jwks_url" .jwks.url }}
  {{- end }}
  {{- if .ca.existingSecret }}{{ $_ := set $auth "ca_file" (printf "%s/auth-ca/%s" $folder .ca.key) }}{{ end }}
  {{- $_ := set $out "auth" $auth }}
  {{- end }}
{{- end }}
{{- if has "keys" .needs }}
  {{- $files := dict }}
  {{- range $values.keys.ids }}{{ $_ := set $files . (printf "%s/keys/%s" $folder .) }}{{ end }}
  {{- $keys := dict "secret_files" $files }}
  {{- if eq .key "apiGateway" }}{{ $_ := set $keys "active_id" $values.keys.activeId }}{{ end }}
  {{- $_ := set $out "keys" $keys }}
{{- end }}
{{- toJson $out }}
{{- end }}

{{/* The whole configuration of a service, as JSON. toToml would write 5000.0. Takes root and key. */}}
{{- define "firstcome.config" -}}
{{- $facts := index (include "firstcome.services" . | fromYaml) .key }}
{{- $values := index .root.Values .key }}
{{- $out := dict "root" .root "key" .key "needs" $facts.needs | include "firstcome.connections" | fromJson }}
{{- $_ := set $out "ops" (dict "listen" (printf "0.0.0.0:%d" (int $facts.ports.ops)) "drain_ms_max" (mul $values.shutdown.budgetSeconds 1000)) }}
{{- if $facts.ports.http }}{{ $_ := set $out "http" (dict "listen" (printf "0.0.0.0:%d" (int $facts.ports.http))) }}{{ end }}
{{- if $facts.ports.admin }}{{ $_ := set $out "admin" (dict "listen" (printf "0.0.0.0:%d" (int $facts.ports.admin))) }}{{ end }}
{{- $shared := dict }}
{{- range $section, $settings := .root.Values.config }}
  {{- if or (has $section (list "log" "ops")) (has $section $facts.needs) }}{{ $_ := set $shared $section $settings }}{{ end }}
{{- end }}
{{- mustMergeOverwrite $out (deepCopy $shared) (deepCopy $values.config) | toJson }}
{{- end }}

{{/* The configuration of a job of couponctl. Takes root, key and needs. */}}
{{- define "firstcome.toolConfig" -}}
{{- $out := include "firstcome.connections" . | fromJson }}
{{- range $section, $settings := .root.Values.config }}
  {{- if has $section $.needs }}{{ $_ := mustMergeOverwrite (index $out $section) (deepCopy $settings) }}{{ end }}
{{- end }}
{{- toJson $out }}
{{- end }}

{{/* The secrets of what a program needs, as sources of one volume; nothing where there are none. Takes root, key and needs. */}}
{{- define "firstcome.secretSources" -}}
{{- $values := .root.Values }}
{{- if has "kafka" .needs }}
{{- with $values.kafka }}
{{- include "firstcome.tlsSource" (dict "tls" .tls "store" "kafka") }}
{{- if .sasl.mechanism }}
- secret:
    name: {{ .sasl.existingSecret }}
    items:
      - {key: {{ .sasl.passwordKey | quote }}, path: kafka-sasl/password}
{{- end }}
{{- end }}
{{- end }}
{{- range $store := list "postgres" "redis" }}
{{- if has $store $.needs }}
{{- with index $values $store }}
- secret:
    name: {{ .existingSecret }}
    items:
      - {key: {{ index .urlKeys $.key | default .urlKeys.default | quote }}, path: {{ $store }}/url}
{{- include "firstcome.tlsSource" (dict "tls" .tls "store" $store) }}
{{- end }}
{{- end }}
{{- end }}
{{- if has "auth" .needs }}
{{- with $values.auth }}
{{- with .hs256.existingSecret | default .jwks.existingSecret }}
- secret:
    name: {{ . }}
    items:
      {{- with $values.auth }}
      - {key: {{ ternary .hs256.key .jwks.key (ne .hs256.existingSecret "") | quote }}, path: auth/{{ ternary "hs256" "jwks.json" (ne .hs256.existingSecret "") }}}
      {{- end }}
{{- end }}
{{- with .ca }}
{{- if .existingSecret }}
- secret:
    name: {{ .existingSecret }}
    items:
      - {key: {{ .key | quote }}, path: {{ printf "auth-ca/%s" .key | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if has "keys" .needs }}
- secret:
    name: {{ $values.keys.existingSecret }}
    items:
      {{- range $values.keys.ids }}
      - {key: {{ . | quote }}, path: keys/{{ . }}}
      {{- end }}
{{- end }}
{{- end }}

{{/* The volumes of a program: its configuration, from the release's ConfigMap of that name, and its secrets. Takes root, key, needs and configMap. */}}
{{- define "firstcome.volumes" -}}
- name: config
  configMap:
    name: {{ .configMap }}
{{- with include "firstcome.secretSources" . | trim }}
- name: secrets
  projected:
    defaultMode: 288 # 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- end }}

{{/* Where they are mounted. Takes root, key and needs. */}}
{{- define "firstcome.mounts" -}}
- {name: config, mountPath: /etc/firstcome/config, readOnly: true}
{{- if include "firstcome.secretSources" . | trim }}
- {name: secrets, mountPath: {{ include "firstcome.secretsFolder" . }}, readOnly: true}
{{- end }}
{{- end }}
