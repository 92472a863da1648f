{{- define "sixview.fullname" -}}
{{ .Values.fullnameOverride | default .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "sixview.labels" -}}
app.kubernetes.io/name: sixview
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sixview.endpoint" -}}
{{- if .Values.s3.endpoint }}{{ .Values.s3.endpoint }}
{{- else if .Values.minio.enabled }}{{ include "sixview.fullname" . }}-minio:9000
{{- else }}s3.amazonaws.com
{{- end }}
{{- end }}

{{- define "sixview.scheme" -}}
{{ ternary "http" "https" .Values.s3.insecure }}
{{- end }}

{{- /* a container's resources, as JSON: (list . step) */}}
{{- define "sixview.resources" -}}
{{- $step := index (index . 0).Values.steps (index . 1) -}}
{{- $memory := printf "%dMi" (int $step.memoryMiB) -}}
{{- $limits := dict "memory" $memory -}}
{{- if $step.gpus }}{{ $limits = set $limits "nvidia.com/gpu" (toString $step.gpus) }}{{ end -}}
{{ dict "limits" $limits "requests" (dict "cpu" $step.cpu "memory" $memory) | toJson }}
{{- end }}

{{- define "sixview.weightsClaim" -}}
{{- if .Values.weights.claim }}{{ .Values.weights.claim }}
{{- else if .Values.weights.create }}{{ include "sixview.fullname" . }}-weights
{{- end }}
{{- end }}

{{- /* the volumes of the step reconviagen, as JSON */}}
{{- define "sixview.weightsVolume" -}}
{{- $claim := include "sixview.weightsClaim" . | trim -}}
{{- if $claim -}}
{{ list (dict "name" "weights" "persistentVolumeClaim" (dict "claimName" $claim "readOnly" true)) | toJson }}
{{- else -}}
{{ list (dict "name" "weights" "emptyDir" dict) | toJson }}
{{- end -}}
{{- end }}

{{- /* what the pods of this chart that are not steps run as */}}
{{- define "sixview.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sixview.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "sixview.s3Environment" -}}
- {name: S3_ENDPOINT, value: {{ printf "%s://%s" (include "sixview.scheme" .) (include "sixview.endpoint" .) | quote }}}
- {name: S3_BUCKET, value: {{ .Values.s3.bucket | quote }}}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ include "sixview.fullname" . }}-s3, key: access-key}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ include "sixview.fullname" . }}-s3, key: secret-key}}
{{- end }}

{{- define "sixview.control" -}}
{{ .Values.images.registry }}/control:{{ .Values.images.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* what the bucket announces drops to: the ARN of MinIO's webhook or of an SQS queue */}}
{{- define "sixview.dropTarget" -}}
{{- if .Values.events.enabled }}{{ ternary "arn:minio:sqs::DROP:webhook" .Values.events.sqs.arn (eq .Values.events.source "webhook") }}{{ end -}}
{{- end }}

{{- /* the pods of Argo Events: EventSource and Sensor */}}
{{- define "sixview.eventsPod" -}}
securityContext: {{- include "sixview.podSecurity" . | nindent 2 }}
container:
  imagePullPolicy: {{ .Values.images.pullPolicy }}
  securityContext: {{- include "sixview.containerSecurity" . | nindent 4 }}
  resources: {requests: {cpu: 20m, memory: 64Mi}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}
