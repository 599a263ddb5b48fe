{{- define "trysail.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.database) -}}
{{- fail "replicas: several servers need database: true" -}}
{{- end -}}
{{- if and (not .Values.database) (not .Values.storage.size) -}}
{{- fail "storage.size: without database the state is a file, which needs a volume" -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) .Values.storage.size (ne .Values.storage.accessMode "ReadWriteMany") -}}
{{- fail "storage.accessMode: several servers cannot share a volume that is not ReadWriteMany; leave storage.size empty" -}}
{{- end -}}
{{- if and .Values.registryStorage (not .Values.registrySecretName) -}}
{{- fail "registrySecretName: registryStorage needs a secret with its credentials" -}}
{{- end -}}
{{- if eq .Values.services.namespace .Release.Namespace -}}
{{- fail "services.namespace: it must be another one than the servers'" -}}
{{- end -}}
{{- end -}}

{{- define "trysail.serverLabels" -}}
app.kubernetes.io/name: trysail
app.kubernetes.io/component: server
{{- end -}}

{{- define "trysail.labels" -}}
app.kubernetes.io/part-of: trysail
{{- end -}}
