"""A page in a browser without a network, and what the tests do with it."""

VIEW = {"width": 1400, "height": 1000}


class Opened:
    """A page that is open, and what it said and asked for meanwhile."""

    def __init__(self, browser, path, scheme="light"):
        self.context = browser.new_context(viewport=VIEW, color_scheme=scheme, offline=True)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.thread = self.context.new_cdp_session(self.page)
        self.thread.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.page.goto(path.as_uri(), timeout=60_000)
        self.page.wait_for_selector("html[data-open=true]", timeout=60_000)
        self.open_s = self.busy_s
        self.page.wait_for_selector("html[data-complete=true]", timeout=60_000)

    @property
    def busy_s(self):
        """Seconds for which the page has worked, not counting what others do on this computer meanwhile."""
        metrics = self.thread.send("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    def _note(self, message):
        """Note what is an error or a warning; the library logs that it has begun."""
        if message.type not in {"log", "info", "debug"}:
            self.said.append(f"{message.type}: {message.text}")

    def value(self, name, of):
        """Give an attribute of a model of the library, by the model's name."""
        return self.page.evaluate(f"perfsim.model({name!r}).{of}")

    def settle(self):
        """Wait until what is to be drawn is drawn."""
        self.page.evaluate("() => new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(() => f())))")

    def window(self, key="plan-0"):
        """Give the seconds that the timeline shows."""
        return self.value(f"{key}-time", "start"), self.value(f"{key}-time", "end")

    def bars(self, key="plan-0"):
        """Give the columns of the bars that the timeline shows."""
        find = "renderers.find((one) => one.glyph.type === 'Quad').data_source.data"
        return self.value(f"{key}-lanes", f"{find}")

    def frame(self, name):
        """Give the box of a picture's inner frame on the screen, scrolled into view."""
        self.page.evaluate(f"Bokeh.index.find_one(perfsim.model({name!r})).el.scrollIntoView({{ block: 'center' }})")
        find = f"""(() => {{
            const view = Bokeh.index.find_one(perfsim.model({name!r})), frame = view.frame.bbox;
            const box = view.canvas.el.getBoundingClientRect();
            return [box.left + frame.left, box.top + frame.top, frame.width, frame.height];
        }})()"""
        return self.page.evaluate(find)

    def hover(self, name, x, y):
        """Move to a place of a picture, given in shares of its frame, and give the tips that appear."""
        left, top, width, height = self.frame(name)
        for step in (3, 0):
            self.page.mouse.move(left + x * width - step, top + y * height)
            self.page.wait_for_timeout(150)
        return [tip for tip in self.page.locator(".bk-tooltip-content").all_inner_texts() if tip]
