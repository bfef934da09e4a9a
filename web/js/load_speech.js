// Gives Load Speech the audio player that ComfyUI's page gives only to nodes of its own; without it the
// upload button, which plays what was uploaded, cannot be made. The server's node definition stays as it is.
import { app } from "/scripts/app.js";

app.registerExtension({
  name: "TalkingPortrait.LoadSpeech",
  beforeRegisterNodeDef(_nodeType, nodeData) {
    if (nodeData.name !== "TP_LoadSpeech") return;
    const { audio, upload, ...others } = nodeData.input.required;
    nodeData.input.required = { audio, audioUI: ["AUDIO_UI", {}], ...(upload && { upload }), ...others };
  },
});
