"""Small nodes for tests of execution, which a real ComfyUI loads too (as a pack of this one file)."""

import asyncio
import sys
import time

if "comfy_execution.graph_utils" in sys.modules:
    from comfy_execution.graph import ExecutionBlocker
    from comfy_execution.graph_utils import GraphBuilder
else:
    from talking_portrait.headless.graph import ExecutionBlocker
    from talking_portrait.runtime.node_graphs import GraphBuilder


class XValue:
    RETURN_TYPES = ("INT",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0})}}

    def give(self, value):
        return (value,)


class XAdd:
    RETURN_TYPES = ("INT",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("INT", {}), "b": ("INT", {"default": 1})}}

    def add(self, a, b):
        return (a + b,)


class XShow:
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def show(self, value):
        return {"ui": {"text": [str(value)]}}


class XMany:
    """Gives 0 ... count - 1 as a list."""

    RETURN_TYPES = ("INT",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {})}}

    def give(self, count):
        return (list(range(count)),)


class XPlusTimes:
    """Expands into `times` additions of 1."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {}), "times": ("INT", {"default": 2})}}

    def expand(self, value, times):
        graph = GraphBuilder()
        last = value
        for _ in range(times):
            last = graph.node("XAdd", a=last, b=1).out(0)
        return {"result": (last,), "expand": graph.finalize()}


class XCountDown:
    """Expands into itself until nothing is left; gives how often."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"left": ("INT", {}), "done": ("INT", {"default": 0})}}

    def expand(self, left, done):
        if left <= 0:
            return (done,)
        graph = GraphBuilder()
        more = graph.node("XAdd", a=done, b=1)
        rest = graph.node("XCountDown", left=left - 1, done=more.out(0))
        return {"result": (rest.out(0),), "expand": graph.finalize()}


class XShowInside:
    """Expands into a node that shows something, and itself gives a constant."""

    RETURN_TYPES = ("INT",)
    OUTPUT_NODE = True
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {})}}

    def expand(self, value):
        graph = GraphBuilder()
        graph.node("XShow", id="inside", value=value)
        return {"result": (7,), "expand": graph.finalize()}


class XChoose:
    """Evaluates only the branch that is wanted, and expands into an addition of 1 to it."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls):
        lazy = ("INT", {"lazy": True})
        return {"required": {"first": ("BOOLEAN", {}), "a": lazy, "b": lazy}}

    def check_lazy_status(self, first, a, b):
        wanted, value = ("a", a) if first else ("b", b)
        return [wanted] if value is None else []

    def choose(self, first, a, b):
        graph = GraphBuilder()
        added = graph.node("XAdd", a=a if first else b, b=1)
        return {"result": (added.out(0),), "expand": graph.finalize()}


class XSleep:
    """Waits without keeping others from running."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "wait"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {}), "seconds": ("FLOAT", {"default": 0.05})}}

    async def wait(self, value, seconds):
        await asyncio.sleep(seconds)
        return (value + 1,)


class XBlock:
    RETURN_TYPES = ("INT",)
    FUNCTION = "block"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"why": ("STRING", {})}}

    def block(self, why):
        return (ExecutionBlocker(why or None),)


class XFail:
    RETURN_TYPES = ("INT",)
    FUNCTION = "fail"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {}), "text": ("STRING", {"default": "no"})}}

    def fail(self, value, text):
        raise ValueError(text)


class XFailInside:
    """Expands into a node that fails."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {})}}

    def expand(self, value):
        graph = GraphBuilder()
        failing = graph.node("XFail", value=value, text="inside")
        return {"result": (failing.out(0),), "expand": graph.finalize()}


class XGraphView:
    """Gives what DYNPROMPT says about the node itself when it stands in an expanded graph."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "look"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "hidden": {"graph": "DYNPROMPT", "me": "UNIQUE_ID", "prompt": "PROMPT"}}

    def look(self, graph, me, prompt):
        shown, real = graph.get_display_node_id(me), graph.get_real_node_id(me)
        parent = graph.get_parent_node_id(me)
        return (f"{me}|{shown}|{real}|{parent}|{graph.has_node(me)}|{me in prompt}",)


class XViewInside:
    """Expands into XGraphView, shown on another node when `shown_on` names one."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shown_on": ("STRING", {"default": ""})}}

    def expand(self, shown_on):
        graph = GraphBuilder()
        view = graph.node("XGraphView")
        if shown_on:
            view.set_override_display_id(shown_on)
        return {"result": (view.out(0),), "expand": graph.finalize()}


class XSteps:
    """Tells its progress as nodes of each host do."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "work"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"steps": ("INT", {})}}

    def work(self, steps):
        if "comfy.utils" in sys.modules:
            bar = sys.modules["comfy.utils"].ProgressBar(steps)
            for done in range(steps):
                bar.update_absolute(done + 1, steps)
        else:
            from talking_portrait.runtime.host import host

            progress = host().progress(steps)
            for done in range(steps):
                progress.update(done + 1)
        return (steps,)


class XNever(XValue):
    """Never gives the same as another node."""

    NOT_IDEMPOTENT = True


class XNeverInside:
    """Expands into two nodes that are never the same, one of which says so by IS_CHANGED."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {})}, "hidden": {"prompt": "PROMPT", "me": "UNIQUE_ID"}}

    @classmethod
    def IS_CHANGED(cls, value, prompt, me):
        return float("NaN")

    def expand(self, value, prompt, me):
        graph = GraphBuilder()
        first = graph.node("XNever", value=value)
        return {"result": (graph.node("XAdd", a=first.out(0), b=1).out(0),), "expand": graph.finalize()}


class XEndless:
    """Works until it is stopped, in one of several ways, with a half-written file in the output folder."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "work"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"way": (["steps", "sleep", "thread", "stubborn"],)}}

    async def work(self, way):
        from talking_portrait.core_models.whole_file import renamed_when_whole
        from talking_portrait.runtime.host import host

        host().output_folder.mkdir(exist_ok=True)
        with renamed_when_whole(host().output_folder / "result.bin") as unfinished:
            unfinished.write_bytes(b"half")
            progress = host().progress(10**9)
            if way == "thread":
                progress.update(1)
                await asyncio.to_thread(time.sleep, 60)
            for step in range(10**9):
                try:
                    time.sleep(0.01)
                    if step == 0 or way == "steps":
                        progress.update(step + 1)
                except BaseException:
                    if way != "stubborn":
                        raise
        return (0,)


NODE_CLASS_MAPPINGS = {
    node_class.__name__: node_class
    for node_class in (
        *(XValue, XAdd, XShow, XMany, XPlusTimes, XCountDown, XShowInside, XChoose, XSleep, XBlock, XFail),
        *(XFailInside, XGraphView, XViewInside, XSteps, XNever, XNeverInside, XEndless),
    )
}
