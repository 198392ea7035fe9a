"""What differs between the versions of Jenkins that the stand-in plays, as seen in tests/recordings/jenkins."""

from collections import namedtuple

Profile = namedtuple(
    "Profile",
    [
        "version",
        "equal_status",  # answer to buildWithParameters when an equal item is queued already
        "cookie_suffix",
        "forget_me",  # what follows the name of the remember-me cookie on a 401
        "challenge",  # WWW-Authenticate
        "title",  # how a page is titled
        "tells_anonymous",  # anonymous 403s name the missing permission in headers
        "build_get_title",  # title of the 405 on GET /job/X/build
        "allow_everywhere",  # Allow: POST on every 405, not only on those of builds
        "plain_errors",  # 409 disabled and 400 not parameterized come from the servlet container
        "not_parameterized",  # status of buildWithParameters on a plain job
        "relative_redirects",  # 301 and 302 are relative to the host
        "prefix_redirect",  # status of GET /prefix without its slash
        "quiet_down_permission",
        "refuses_blank_host",
        "forwarded_keeps_port",  # RFC 7239 Forwarded changes the host, and the port of Host stays
        "shows_notes",  # progressiveText shows hidden console notes as they are in the log
        "transient_actions",  # how many empty actions an administrator sees on a build, on a job
        "queue_item_page",  # GET /queue/item/N/ exists
        "users_load_late",  # a moment of 401 to everybody while it starts
        "starting",  # heading of the page while it starts
        "user_properties",
    ],
)

_PROPERTIES = (
    "jenkins.security.ApiTokenProperty",
    "jenkins.console.ConsoleUrlProviderUserProperty",
    "hudson.model.MyViewsProperty",
    "hudson.model.PaneStatusProperties",
    "jenkins.security.seed.UserSeedProperty",
    "hudson.search.UserSearchProperty",
    "hudson.model.TimeZoneProperty",
    "jenkins.model.experimentalflags.UserExperimentalFlagsProperty",
    "hudson.security.HudsonPrivateSecurityRealm$Details",
)

_2_462 = Profile(
    version="2.462.3",
    equal_status=303,
    cookie_suffix="",
    forget_me="Expires=Thu, 01-Jan-1970 00:00:00 GMT; Max-Age=0",
    challenge='Basic realm="Jenkins"',
    title="{} [Jenkins]",
    tells_anonymous=False,
    build_get_title="Form post required",
    allow_everywhere=False,
    plain_errors=False,
    not_parameterized=500,
    relative_redirects=False,
    prefix_redirect=302,
    quiet_down_permission="hudson.model.Hudson.Administer",
    refuses_blank_host=False,
    forwarded_keeps_port=False,
    shows_notes=False,
    transient_actions=(0, 1),
    queue_item_page=False,
    users_load_late=False,
    starting="Please wait while Jenkins is getting ready to work  .  .  .",
    user_properties=_PROPERTIES,
)

PROFILES = {
    # Before 2.308 an equal parameterized item was answered like a new one. No such version was recorded:
    # everything else is taken from 2.462.
    "pre-2.308": _2_462._replace(version="2.303.3", equal_status=201),
    "2.462": _2_462,
    "2.568": Profile(
        version="2.568.2",
        equal_status=303,
        cookie_suffix="; SameSite=Lax",
        forget_me="Expires=Thu, 01 Jan 1970 00:00:00 GMT; SameSite=Lax",
        challenge='Basic realm="Jenkins", charset="UTF-8"',
        title="{} - Jenkins",
        tells_anonymous=True,
        build_get_title="Method Not Allowed",
        allow_everywhere=True,
        plain_errors=True,
        not_parameterized=400,
        relative_redirects=True,
        prefix_redirect=301,
        quiet_down_permission="hudson.model.Hudson.Manage",
        refuses_blank_host=True,
        forwarded_keeps_port=True,
        shows_notes=True,
        transient_actions=(1, 2),
        queue_item_page=True,
        users_load_late=True,
        starting="Jenkins is getting ready to work",
        user_properties=_PROPERTIES[:2] + ("jenkins.views.ViewsTabBarUserProperty",) + _PROPERTIES[2:],
    ),
}
