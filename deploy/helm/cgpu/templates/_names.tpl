{{- define "cgpu.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "cgpu.labels" -}}
app.kubernetes.io/name: cgpu
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "cgpu.agentLabels" -}}
app.kubernetes.io/name: cgpu
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "cgpu.restricted" -}}
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "cgpu.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "cgpu.spreadOver" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector: {matchLabels: {app.kubernetes.io/name: cgpu, app.kubernetes.io/component: {{ . }}}}
{{- end }}

{{- /* Of a Job; ends within its container, which gets its arguments behind it. */}}
{{- define "cgpu.uninstallSpec" -}}
backoffLimit: 0
template:
  metadata:
    labels:
      app.kubernetes.io/name: cgpu
      app.kubernetes.io/instance: {{ .Release.Name }}
      app.kubernetes.io/component: uninstall
  spec:
    serviceAccountName: cgpu-uninstall
    restartPolicy: Never
    securityContext: {{- include "cgpu.restricted" . | nindent 6 }}
    {{- with .Values.imagePullSecrets }}
    imagePullSecrets: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.controller.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.controller.tolerations }}
    tolerations: {{- toYaml . | nindent 6 }}
    {{- end }}
    volumes:
      - name: tmp
        emptyDir: {}
    containers:
      - name: uninstall
        image: {{ include "cgpu.image" . }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        securityContext: {{- include "cgpu.restrictedContainer" . | nindent 10 }}
        resources: {{- toYaml .Values.controller.resources | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
{{- end }}
