{{- define "mmsb.name" -}}
{{- if contains "mmsb" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-mmsb{{ end }}
{{- end }}

{{- define "mmsb.selector" -}}
app.kubernetes.io/name: mmsb
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mmsb.labels" -}}
{{ include "mmsb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Whether callers send tokens of the token file. */ -}}
{{- define "mmsb.hasTokens" -}}
{{- if has "token" (splitList "," .Values.auth.mode) }}yes{{ end }}
{{- end }}

{{- define "mmsb.check" -}}
{{- if and (include "mmsb.hasTokens" .) (not .Values.auth.tokensSecret) }}
{{- fail "auth.tokensSecret: name the Secret with tokens.json, or set auth.mode to none, which lets everybody do everything" }}
{{- end }}
{{- if and (not .Values.tls.secret) (not .Values.tls.disabled) }}
{{- fail "tls.secret: name a Secret of the type kubernetes.io/tls, or set tls.disabled=true, which lets others read tokens on the way" }}
{{- end }}
{{- if and .Values.tls.secret .Values.tls.disabled }}
{{- fail "tls.secret and tls.disabled=true exclude each other" }}
{{- end }}
{{- end }}
