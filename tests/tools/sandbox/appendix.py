"""The example programs of the MAIA paper's appendix A, which define the API that programs rely on.

They are the paper's, with long lines wrapped, the slips of its typesetting repaired and nothing else:
`self` and bare names that stand for `tools`, `all_image` for `all_images`, a missing colon, and names
used without a value.
"""

NEURON_ONE_PROMPT = """
def run_experiment(system, tools) -> Tuple[int, str]:
    prompt = ["a dog standing on the grass"]
    image = tools.text2image(prompt)
    activation_list, activation_map_list = system.neuron(image)
    return activation_list, activation_map_list
"""

NEURON_EDIT = """
def run_experiment(system, tools) -> Tuple[int, str]:
    prompt = ["a dog standing on the grass"]
    edits = ["replace the dog with a lion"]
    all_images, all_prompts = tools.edit_images(prompt, edits)
    activation_list, activation_map_list = system.neuron(all_images)
    return activation_list, activation_map_list
"""

EXEMPLARS = """
def run_experiment(system, tools):
    activation_list, image_list = tools.dataset_exemplars(system)
    return activation_list, image_list
"""

THREE_EDITS = """
def run_experiment(system, tools) -> Tuple[int, str]:
    prompts = ["a dog standing on the grass"]*3
    edits = ["make the dog sit","make the dog run","make the dog eat"]
    all_images, all_prompts = tools.edit_images(prompts, edits)
    activation_list, activation_map_list = system.neuron(all_images)
    return activation_list, activation_map_list
"""

THREE_PROMPTS = """
def run_experiment(system, tools) -> Tuple[int, str]:
    prompt_list = ["a fox and a rabbit watch a movie under a starry night sky",
        "a fox and a bear watch a movie under a starry night sky",
        "a fox and a rabbit watch a movie at sunrise"]
    images = tools.text2image(prompt_list)
    activation_list, activation_map_list = system.neuron(images)
    return activation_list, activation_map_list
"""

SUMMARIZE = """
def run_experiment(system, tools):
    activation_list, image_list = tools.dataset_exemplars(system)
    prompt_list = []
    for i in range(len(activation_list)):
        # for the dataset exemplars we don't have prompts,
        # therefore need to provide text titles
        prompt_list.append(f'dataset exemplar {i}')
    summarization = tools.summarize_images(image_list)
    return summarization
"""

DESCRIBE = """
def run_experiment(system, tools):
    prompt_list = ["a fox and a rabbit watch a movie under a starry night sky",
        "a fox and a bear watch a movie under a starry night sky",
        "a fox and a rabbit watch a movie at sunrise"]
    images = tools.text2image(prompt_list)
    activation_list, image_list = system.neuron(images)
    descriptions = tools.describe_images(image_list, prompt_list)
    return descriptions
"""

LOG_PROMPTS = """
def run_experiment(system, tools):
    prompt_list = ["a fox and a rabbit watch a movie under a starry night sky",
        "a fox and a bear watch a movie under a starry night sky",
        "a fox and a rabbit watch a movie at sunrise"]
    images = tools.text2image(prompt_list)
    activation_list, activation_map_list = system.neuron(images)
    descriptions = tools.describe_images(images, prompt_list)
    tools.log_experiment(activation_list, activation_map_list, prompt_list, descriptions)
    return
"""

LOG_EXEMPLARS = """
def run_experiment(system, tools):
    activation_list, image_list = tools.dataset_exemplars(system)
    prompt_list = []
    for i in range(len(activation_list)):
        # for the dataset exemplars we don't have prompts,
        # therefore need to provide text titles
        prompt_list.append(f'dataset_exemplars {i}')
    summarization = tools.summarize_images(image_list)
    tools.log_experiment(activation_list, image_list, prompt_list, summarization)
    return
"""

LOG_EDIT = """
def run_experiment(system, tools) -> Tuple[int, str]:
    prompt = ["a dog standing on the grass"]
    edits = ["replace the dog with a cat"]
    all_images, all_prompts = tools.edit_images(prompt, edits)
    activation_list, activation_map_list = system.neuron(all_images)
    descriptions = tools.describe_images(activation_map_list, all_prompts)
    tools.log_experiment(activation_list, activation_map_list, all_prompts, descriptions)
    return
"""

LOG_THREE_EDITS = """
def run_experiment(system, prompt_list) -> Tuple[int, str]:
    prompts = ["a dog standing on the grass"]*3
    edits = ["make the dog sit","make the dog run","make the dog eat"]
    all_images, all_prompts = prompt_list.edit_images(prompts, edits)
    activation_list, activation_map_list = system.neuron(all_images)
    descriptions = prompt_list.describe_images(activation_map_list, all_prompts)
    prompt_list.log_experiment(activation_list, activation_map_list, all_prompts, descriptions)
    return
"""

EXAMPLES = {
    name: program for name, program in vars().copy().items() if name.isupper() and isinstance(program, str)
}
