"""Addresses of runs under /api/v1/."""

from django.urls import path

from interp_app.core.metrics import add_gauges
from interp_app.runs.api import events, lab, results, runs, typed_results
from interp_app.runs.api.gauges import lab_gauges

add_gauges(lab_gauges)

urlpatterns = [
    path("methods/", lab.MethodList.as_view(), name="methods"),
    path("methods/<slug:name>/", lab.MethodOne.as_view(), name="method"),
    path("runs/", runs.RunList.as_view(), name="runs"),
    path("runs/preview/", runs.RunPreview.as_view(), name="preview"),
    path("runs/<uuid:id>/", runs.RunOne.as_view(), name="run"),
    path("runs/<uuid:id>/cancel/", runs.RunCancel.as_view(), name="cancel"),
    path("runs/<uuid:id>/resume/", runs.RunResume.as_view(), name="resume"),
    path("runs/<uuid:id>/events/", events.patiently(events.RunEvents.as_view()), name="events"),
    path("runs/<uuid:id>/panels/", results.RunPanels.as_view(), name="panels"),
    path("runs/<uuid:id>/panels/<int:index>.bin", results.PanelBinary.as_view(), name="panel-bin"),
    path("runs/<uuid:id>/panels/<int:index>.csv", results.PanelTable.as_view(), name="panel-csv"),
    path("runs/<uuid:id>/panels/<int:index>.json", results.PanelJson.as_view(), name="panel-json"),
    path("runs/<uuid:id>/artifacts/", results.RunArtifacts.as_view(), name="artifacts"),
    path("runs/<uuid:id>/artifacts/<str:name>", results.RunArtifactFile.as_view(), name="artifact"),
    path("runs/<uuid:id>/results/", typed_results.RunResults.as_view(), name="results"),
    path("runs/<uuid:id>/results/<str:name>/", typed_results.ResultJson.as_view(), name="result"),
    path("runs/<uuid:id>/results/<str:name>.csv", typed_results.ResultTable.as_view(), name="result-csv"),
    path("runs/<uuid:id>/notebook/", typed_results.RunNotebook.as_view(), name="notebook"),
    path("queue/", lab.Queue.as_view(), name="queue"),
    path("workers/", lab.Workers.as_view(), name="workers"),
]
