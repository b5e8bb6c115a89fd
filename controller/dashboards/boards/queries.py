"""What several dashboards ask alike: variables, and PromQL for shares, rates and quantiles."""

from panels import Variable

CLASS = Variable(name="hardware_class", of="label_values(mailboat_devices, hardware_class)")
MODEL = Variable(name="model", of="label_values(mailboat_model_devices_assigned, model)")
SITE = Variable(name="site", of="label_values(mailboat_site_devices, site)")
ROLLOUT = Variable(name="rollout", of="label_values(mailboat_rollout_devices, rollout)")

OF_CLASS = 'hardware_class=~"$hardware_class"'
OF_SITE = 'site=~"$site"'
OF = f'{OF_CLASS}, model=~"$model"'  # of the releases that the reader chose
RELEASE = "model, version"
RELEASE_NAME = "{{model}} {{version}}"


def share(part: str, whole: str) -> str:
    """Of nothing at all there is no share."""
    return f"{part} / ({whole} > 0)"


def summed(metric: str, selector: str = "", by: str = "") -> str:
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} ({metric}{{{selector}}})" if selector else f"{grouped} ({metric})"


def per_second(metric: str, selector: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def increased(metric: str, selector: str, by: str, span: str = "1h") -> str:
    return f"sum by ({by}) (increase({metric}{{{selector}}}[{span}]))"


def quantile(q: float, metric: str, selector: str, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {per_second(f'{metric}_bucket', selector, grouped)})"


def most(number: int, expr: str) -> str:
    """A site or device each would be more lines than anybody reads."""
    return f"topk({number}, {expr})"
