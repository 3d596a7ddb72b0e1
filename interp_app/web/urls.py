"""Addresses of the pages: nouns, stable, everything one sees on a list in the query string."""

from django.urls import path

from interp_app.web.views import account, models, prompts, queue, run, run_new, runs, start
from interp_app.web.views import help as help_pages

app_name = "web"
urlpatterns = [
    path("", start.start, name="start"),
    path("models/", models.models, name="models"),
    path("models/<slug:slug>/", models.model, name="model"),
    path("prompts/", prompts.prompt_sets, name="prompts"),
    path("prompts/new/", prompts.new_prompt_set, name="prompt_new"),
    path("prompts/<uuid:id_>/", prompts.latest, name="prompt_latest"),
    path("prompts/<uuid:id_>/edit/", prompts.edit_prompt_set, name="prompt_edit"),
    path("prompts/<uuid:id_>/archive/", prompts.archive, name="prompt_archive"),
    path("prompts/<uuid:id_>/v<int:number>/", prompts.prompt_version, name="prompt_version"),
    path("prompts/<uuid:id_>/v<int:number>.<str:suffix>", prompts.download, name="prompt_download"),
    path("runs/", runs.history, name="runs"),
    path("runs/new/", run_new.new_run, name="run_new"),
    path("runs/<uuid:id_>/", run.run_page, name="run"),
    path("runs/<uuid:id_>/cancel/", run.cancel, name="run_cancel"),
    path("runs/<uuid:id_>/resume/", run.resume, name="run_resume"),
    path("runs/<uuid:id_>/file/", run.file_run, name="run_file"),
    path("queue/", queue.queue, name="queue"),
    path("settings/tokens/", account.tokens, name="tokens"),
    path("settings/tokens/<uuid:id_>/revoke/", account.revoke, name="token_revoke"),
    path("settings/theme/", account.theme, name="theme"),
    path("help/", help_pages.overview, name="help"),
    path("help/shortcuts/", help_pages.shortcuts, name="shortcuts"),
    path("help/methods/<slug:name>/", help_pages.method, name="method"),
    path("login/", account.SignIn.as_view(), name="login"),
    path("logout/", account.sign_out, name="logout"),
]
